//! One container of a pod from its start to its end: waiting for it, seeing what it writes or talking to
//! it, and its exit code.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::attach::How;
use crate::cli::client::{Ask, Client, query};
use crate::cli::failure::{Code, Failure};
use crate::cli::output::{note, raw};
use crate::cli::target::name_of;

/// Time between looks at a container that starts or ends.
const PAUSE: Duration = Duration::from_millis(200);

/// What is done while the container lives.
pub(crate) struct Life<'a> {
    /// The pod as it was made.
    pub(crate) pod: &'a Value,
    /// Of the pod's status, the list that tells of the container: `containerStatuses`.
    pub(crate) list: &'static str,
    /// Which container, and whether it is talked to; else its log is printed.
    pub(crate) how: &'a How,
    pub(crate) client: &'a Client,
    /// Whether a device that does not allow what the pod asks for ends it, rather than waits to be changed.
    pub(crate) impatient: bool,
}

impl Life<'_> {
    /// From the start of the container to its end, which is this command's; a signal ends it before.
    pub(crate) async fn whole(&self) -> Result<(), Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = self.follow() => ended,
            _ = interrupt.recv() => Err(Failure::ended(130)),
            _ = terminate.recv() => Err(Failure::ended(143)),
        }
    }

    async fn follow(&self) -> Result<(), Failure> {
        self.begun().await?;
        if self.how.stdin || self.how.tty {
            if let Err(failure) = self.how.run(self.pod, self.client).await {
                if !self.state().await?["terminated"].is_object() {
                    return Err(failure);
                }
                // It ended before anybody could attach.
                self.print_log().await?;
            }
        } else {
            self.print_log().await?;
        }
        loop {
            if let Some(code) = self.state().await?["terminated"]["exitCode"].as_i64() {
                let code = u8::try_from(code).unwrap_or(1);
                return if code == 0 { Ok(()) } else { Err(Failure::ended(code)) };
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until it runs or has run, and says what it waits for.
    async fn begun(&self) -> Result<(), Failure> {
        let mut said = String::new();
        loop {
            let state = self.state().await?;
            if state["running"].is_object() || state["terminated"].is_object() {
                return Ok(());
            }
            let why = state["waiting"]["message"].as_str().unwrap_or_default();
            if self.impatient && why.contains("agent.toml") {
                return Err(Failure::new(Code::Refused, format!("start pod {}: {why}", name_of(self.pod))));
            }
            let usual = ["ContainerCreating", "PodInitializing"];
            if let Some(reason) = state["waiting"]["reason"].as_str().filter(|reason| !usual.contains(reason))
                && reason != said
            {
                reason.clone_into(&mut said);
                note!("waiting: {reason} {why}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn state(&self) -> Result<Value, Failure> {
        let pod: Value = self.client.get(&path(self.pod)).await?;
        let all = pod["status"][self.list].as_array().into_iter().flatten();
        let own = all.into_iter().find(|status| status["name"] == self.how.container.as_str());
        let state = own.map(|status| status["state"].clone()).unwrap_or_default();
        let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let gone = pod["metadata"]["uid"] != self.pod["metadata"]["uid"];
        if !state["terminated"].is_object() && (gone || over || pod["metadata"]["deletionTimestamp"].is_string()) {
            let why = if over { "is over" } else { "was deleted meanwhile" };
            let title = format!("the pod {} {why}", name_of(self.pod));
            let status = [&pod["status"]["reason"], &pod["status"]["message"]].map(|text| text.as_str().unwrap_or(""));
            let [reason, message] = status;
            let failure = Failure::new(Code::Refused, title);
            return Err(if reason.is_empty() { failure } else { failure.hint(format!("{reason}: {message}")) });
        }
        Ok(state)
    }

    /// Prints the container's log until it ends.
    async fn print_log(&self) -> Result<(), Failure> {
        let pairs = [("follow", "true".to_owned()), ("container", self.how.container.clone())];
        let log = format!("{}{}", super::path(self.pod, "log"), query(pairs));
        let mut stream = self.client.stream(Ask::get(&log).accept("*/*")).await?;
        while let Some(bytes) = stream.chunk().await? {
            raw(&bytes)?;
        }
        Ok(())
    }
}

/// Deletes a pod that was made for one command.
pub(crate) async fn delete(pod: &Value, client: &Client) {
    let deleted: Result<Value, Failure> = client.json(Ask::new(Method::DELETE, &path(pod))).await;
    match deleted {
        Ok(_) => note!("pod \"{}\" deleted", name_of(pod)),
        Err(failure) => note!("{}", failure.during("delete the pod").text().trim_end()),
    }
}

/// The path of the pod itself.
fn path(pod: &Value) -> String {
    super::path(pod, "").trim_end_matches('/').to_owned()
}
