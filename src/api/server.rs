//! Listening: unix socket, TLS, and byte streams that someone else accepted. Whatever a stranger
//! sends costs one connection and a bounded time.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::patience::{Patience, Patient, WRITE_TIMEOUT};
use super::{Api, User};

/// The part of all connections that may come over TLS, in quarters: strangers can not take the places
/// of root and of other devices.
const TLS_QUARTERS: usize = 3;
/// The most bytes of a request's head.
const HEAD_LIMIT: usize = 64 << 10;
/// The most headers of a request.
const HEADERS_LIMIT: usize = 100;
/// How long a client may take to send a request's head, and a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long open connections get to finish when the agent stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The API can not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket can not be made.
    #[error("listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Api {
    /// Serves HTTP/1.1 on a byte stream until either side ends it.
    pub async fn serve_connection<S>(&self, stream: S, user: User)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Ok(_permit) = Arc::clone(&self.inner.connections).try_acquire_owned() else {
            tracing::warn!(limit = self.inner.config.connections, "too many API connections, one was closed");
            return;
        };
        let patience = Patience::default();
        let service = service_fn(|request| {
            let (api, user, patience) = (self.clone(), user.clone(), patience.clone());
            async move { Ok::<_, std::convert::Infallible>(api.answer(request, user, patience).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_LIMIT)
            .max_headers(HEADERS_LIMIT)
            .half_close(false)
            .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT, patience.clone())), service)
            .with_upgrades();
        tokio::pin!(connection);
        let shutdown = self.inner.config.shutdown.clone();
        // The connection is polled on after the shutdown, so that no answer is cut in the middle.
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an API connection ended early");
        }
    }

    /// Serves root on a unix socket until the shutdown. A socket that a dead agent left is replaced.
    pub async fn serve_unix(&self, path: &Path) -> Result<(), ServeError> {
        self.serve_socket(Self::bind_unix(path)?).await;
        Ok(())
    }

    /// Makes the socket, replacing one that an earlier agent left. Nobody is served yet.
    pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
        bind_unix(path).map_err(|source| ServeError::Socket { path: path.to_owned(), source })
    }

    /// Serves root on such a socket until the shutdown.
    pub async fn serve_socket(&self, listener: UnixListener) {
        let mut open = JoinSet::new();
        let shutdown = self.inner.config.shutdown.clone();
        loop {
            // Accepting is cancel-safe; finished connections are only reaped.
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let api = self.clone();
                        open.spawn(async move { api.serve_connection(stream, User::root()).await });
                    }
                    Err(error) => pause(&error).await,
                },
                Some(_) = open.join_next() => {}
                () = shutdown.cancelled() => break,
            }
        }
        while open.join_next().await.is_some() {}
    }

    /// Serves users with a certificate on a TCP listener until the shutdown.
    pub async fn serve_tls(&self, listener: TcpListener, config: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(config);
        let limit = self.inner.config.connections * TLS_QUARTERS / 4;
        let mut open = JoinSet::new();
        let shutdown = self.inner.config.shutdown.clone();
        loop {
            // Accepting is cancel-safe; finished connections are only reaped.
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) if open.len() < limit => {
                        let (api, acceptor) = (self.clone(), acceptor.clone());
                        open.spawn(async move {
                            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                                Ok(Ok(stream)) => {
                                    let user = user_of(stream.get_ref().1.peer_certificates());
                                    api.serve_connection(stream, user).await;
                                }
                                Ok(Err(error)) => tracing::debug!(%from, %error, "a TLS handshake failed"),
                                Err(_) => tracing::debug!(%from, "a TLS handshake took too long"),
                            }
                        });
                    }
                    Ok((_, from)) => tracing::warn!(%from, "too many API connections, one was closed"),
                    Err(error) => pause(&error).await,
                },
                Some(_) = open.join_next() => {}
                () = shutdown.cancelled() => break,
            }
        }
        while open.join_next().await.is_some() {}
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accept an API connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Binds next to the path and moves the socket there: it never exists with the wrong mode.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension("sock.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Who a verified client certificate names.
fn user_of(certificates: Option<&[CertificateDer<'_>]>) -> User {
    let Some(first) = certificates.and_then(<[_]>::first) else { return User::anonymous() };
    let Ok((_, certificate)) = X509Certificate::from_der(first) else { return User::anonymous() };
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return User::anonymous();
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    // This group is only for those without a certificate.
    groups.retain(|group| group != "system:unauthenticated");
    groups.push("system:authenticated".into());
    User { name: name.to_owned(), groups }
}
