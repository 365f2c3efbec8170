//! Routes the fleet's own corner of the API, `/kith/v1/...`, to `Control`.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::{Control, Refusal};
use crate::api::fleet::{BACKUP, KUBECONFIG, LEAVE, PLAN, RECOVER, RecoverAsk, SETTINGS, STATUS, TOKENS};
use crate::api::{ADMINISTRATORS, Extra, ExtraBody, ExtraRequest, ExtraResponse};

/// The fleet's own corner.
pub(crate) struct Corner(pub(crate) Arc<Control>);

impl Extra for Corner {
    fn handle(&self, request: ExtraRequest) -> Option<BoxFuture<'static, ExtraResponse>> {
        let control = self.0.clone();
        let known = [STATUS, SETTINGS, LEAVE, KUBECONFIG, PLAN, TOKENS, BACKUP, RECOVER]
            .contains(&request.path.as_str())
            || request.path.strip_prefix(TOKENS).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'));
        known.then(|| -> BoxFuture<'static, ExtraResponse> {
            Box::pin(async move {
                if (request.method.as_str(), request.path.as_str()) == ("GET", BACKUP) && may(&request) {
                    return match control.backup().await {
                        Ok(chunks) => {
                            let content_type = "application/octet-stream".into();
                            ExtraResponse { status: 200, content_type, body: ExtraBody::Stream(chunks) }
                        }
                        Err(refusal) => refused(&refusal),
                    };
                }
                match answer(&control, &request).await {
                    Ok(body) => {
                        let (content_type, body) = ("application/json".into(), ExtraBody::Whole(body));
                        ExtraResponse { status: 200, content_type, body }
                    }
                    Err(refusal) => refused(&refusal),
                }
            })
        })
    }
}

async fn answer(control: &Control, request: &ExtraRequest) -> Result<Vec<u8>, Refusal> {
    if !may(request) {
        let message = format!("{} may not do this: it needs a user of the group {ADMINISTRATORS}", request.user.name);
        return Err(Refusal { status: 403, message });
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", STATUS) => json(&control.status().await?),
        ("GET", SETTINGS) => json(&control.listed),
        ("GET", TOKENS) => json(&control.tokens().await?),
        ("POST", TOKENS) => json(&control.create_token(&parsed(&request.body)?, &request.user.name).await?),
        ("POST", LEAVE) => json(&control.leave(&parsed(&request.body)?).await?),
        ("GET", RECOVER) => json(&control.recovery().await),
        ("POST", RECOVER) => json(&control.recover(parsed::<RecoverAsk>(&request.body)?.force).await?),
        ("POST", KUBECONFIG) => json(&control.kubeconfig(parsed(&request.body)?).await?),
        ("POST", PLAN) => {
            let manifest = std::str::from_utf8(&request.body)
                .map_err(|_| Refusal { status: 400, message: "the manifest is not UTF-8 text".into() })?;
            json(&control.plan(manifest)?)
        }
        ("DELETE", path) if path.starts_with(TOKENS) => {
            control.revoke_token(&path[TOKENS.len() + 1..]).await?;
            Ok(b"{}".to_vec())
        }
        (method, path) => Err(Refusal { status: 405, message: format!("{path} does not take {method}") }),
    }
}

/// Administrators may do everything; others may look at the fleet, and rehearse, which writes nothing.
fn may(request: &ExtraRequest) -> bool {
    request.user.is_administrator()
        || matches!((request.method.as_str(), request.path.as_str()), ("GET", STATUS) | ("POST", PLAN))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal { status: 400, message: format!("the request's body: {error}") })
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| Refusal { status: 500, message: error.to_string() })
}

/// Kubernetes' `Status`, as every other refusal of the API.
fn refused(refusal: &Refusal) -> ExtraResponse {
    let reason = match refusal.status {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        422 => "Invalid",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": refusal.message, "reason": reason, "code": refusal.status,
    });
    ExtraResponse {
        status: refusal.status,
        content_type: "application/json".into(),
        body: ExtraBody::Whole(status.to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::User;

    #[test]
    fn only_administrators_change_the_fleet_or_see_its_tokens() {
        let user = |group: &str| User { name: "jane".into(), groups: vec![group.into()] };
        let asks = |user: &User, method: &str, path: &str| {
            let (method, path) = (method.into(), path.into());
            may(&ExtraRequest { method, path, query: String::new(), body: Vec::new(), user: user.clone() })
        };
        for (method, path) in [
            ("GET", BACKUP),
            ("GET", RECOVER),
            ("POST", RECOVER),
            ("GET", TOKENS),
            ("GET", SETTINGS),
            ("POST", TOKENS),
            ("POST", LEAVE),
            ("POST", KUBECONFIG),
        ] {
            assert!(asks(&user(ADMINISTRATORS), method, path) && asks(&User::root(), method, path));
            assert!(!asks(&user("viewers"), method, path), "{method} {path}");
        }
        assert!(asks(&user("viewers"), "GET", STATUS) && asks(&user("viewers"), "POST", PLAN));
    }
}
