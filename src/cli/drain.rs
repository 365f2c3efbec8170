//! `kith drain`: a device gets no new pods, and those on it start elsewhere. Static pods stay, as they
//! are the device's own.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Ask, Client, escape, media, query};
use super::cordon;
use super::failure::{Code, Failure};
use super::output::{note, say};
use super::parse_span;
use super::target::{items, name_of, namespace_of};

/// Pause between looks at pods that are going.
const LOOK: Duration = Duration::from_millis(300);
/// On pods that only show what a device runs from its own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Delete pods too that nothing starts elsewhere
    #[arg(long)]
    force: bool,
    /// How long to wait until all are gone
    #[arg(long, value_parser = parse_span, default_value = "2m", value_name = "TIME")]
    timeout: Duration,
}

/// The kind of what makes a pod anew when it is gone.
fn controller(pod: &Value) -> Option<&str> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["kind"].as_str()
}

fn goes(pod: &Value) -> bool {
    // A DaemonSet would make it again right here.
    pod["metadata"]["annotations"][MIRROR].is_null() && controller(pod) != Some("DaemonSet")
}

fn path(pod: &Value) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", escape(namespace_of(pod)), escape(name_of(pod)))
}

pub(crate) async fn run(args: &DrainArgs, client: &Client) -> Result<(), Failure> {
    cordon::set(&args.device, true, client).await?;
    let selector = query([("fieldSelector", format!("spec.nodeName={}", args.device))]);
    let mut list: Value = client.get(&format!("/api/v1/pods{selector}")).await?;
    let (going, staying): (Vec<Value>, Vec<Value>) = items(&mut list).into_iter().partition(goes);
    for pod in &staying {
        note!("pod/{} stays: it belongs to the device", name_of(pod));
    }
    let alone: Vec<&str> = going.iter().filter(|pod| controller(pod).is_none()).map(name_of).collect();
    if !alone.is_empty() && !args.force {
        let why = format!("nothing would start these pods elsewhere: {}", alone.join(", "));
        return Err(Failure::new(Code::Refused, why)
            .hint(format!("--force deletes them; kith uncordon {} takes the cordon back", args.device)));
    }
    for pod in &going {
        evict(pod, client).await.map_err(|failure| failure.during(format!("evict pod/{}", name_of(pod))))?;
    }
    let gone = async {
        for pod in &going {
            while let Some(found) = client.find(&path(pod)).await? {
                if found["metadata"]["uid"] != pod["metadata"]["uid"] {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            say!("pod/{} is gone from {}", name_of(pod), args.device)?;
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(args.timeout, gone).await.map_err(|_| {
        Failure::failed(format!("not all pods were gone after {:?}", args.timeout))
            .hint("kith get pods -A -o wide shows what is left; a device that can not be reached ends its pods when it is back")
    })??;
    say!("node/{} drained", args.device)
}

/// Asks a pod to go, if it is still there: the very pod that was seen, and no other of its name.
async fn evict(pod: &Value, client: &Client) -> Result<(), Failure> {
    let options = json!({"preconditions": {"uid": pod["metadata"]["uid"]}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "deleteOptions": options,
        "metadata": {"name": name_of(pod), "namespace": namespace_of(pod)}});
    let (object, subresource) = (path(pod), format!("{}/eviction", path(pod)));
    let asks = [
        Ask::new(Method::POST, &subresource).body(media::JSON, eviction.to_string()),
        // An agent of the release before knows no evictions, and answers as if the pod were gone.
        Ask::new(Method::DELETE, &object).body(media::JSON, options.to_string()),
    ];
    for ask in asks {
        match client.json::<Value>(ask).await {
            Err(failure) if failure.status == Some(hyper::StatusCode::NOT_FOUND) => {}
            answered => return answered.map(drop),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_start_elsewhere_goes() {
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        assert!(goes(&owned("ReplicaSet")) && !goes(&owned("DaemonSet")) && goes(&json!({"metadata": {}})));
        assert!(!goes(&json!({"metadata": {"annotations": {MIRROR: "x"}}})));
        assert_eq!((controller(&owned("Job")), controller(&json!({}))), (Some("Job"), None));
    }
}
