//! `kith rollout`: how far a Deployment's rollout is, all of its pods anew, and back to what was before.

use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Ask, Client, media};
use super::failure::{Code, Failure};
use super::output::{Table, note, say};
use super::target::{self, Namespace, Target, items, name_of, title};
use super::{describe, parse_span};
use crate::resource::kind;

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(300);
/// Numbers the templates of a Deployment, on its ReplicaSets.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Changes with each restart, as kubectl writes it.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
const TEMPLATE_HASH: &str = "pod-template-hash";

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Wait until a rollout is over, and say how far it is
    Status(StatusArgs),
    /// Replace all pods, a few at a time, as a rollout does
    Restart(OneArgs),
    /// Go back to an earlier template
    Undo(UndoArgs),
    /// List the templates that can be gone back to
    History(OneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// deployment NAME, or deployment/NAME
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Look once, and do not wait
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_span, value_name = "TIME", default_value = "10m")]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Which one, as kith rollout history numbers them [default: the one before]
    #[arg(long, value_name = "NUMBER")]
    to_revision: Option<u64>,
}

impl OneArgs {
    fn target(&self) -> Result<(Target, String), Failure> {
        let targets = target::parse(&self.objects)?;
        let [target] = &targets[..] else { return Err(Failure::usage("one rollout at a time: deployment/NAME")) };
        let Some(name) = &target.name else { return Err(Failure::usage("say which: deployment/NAME")) };
        if *target.kind != kind::DEPLOYMENT {
            return Err(Failure::usage(format!("{} has no rollout: name a deployment", title(target.kind, name))));
        }
        Ok((target.clone(), title(target.kind, name)))
    }

    fn path(&self, target: &Target) -> String {
        target.path(Some(self.namespace.name()))
    }
}

pub(crate) async fn run(command: &RolloutCommand, client: &Client) -> Result<(), Failure> {
    match command {
        RolloutCommand::Status(args) => status(args, client).await,
        RolloutCommand::Restart(args) => {
            let (target, title) = args.target()?;
            let now = serde_json::to_value(describe::now().to_kubernetes()).unwrap_or_default();
            let template = json!({ "metadata": { "annotations": { RESTARTED: now } } });
            patch(client, &args.path(&target), &template, &format!("restart {title}")).await?;
            say!("{title} restarted")
        }
        RolloutCommand::Undo(args) => undo(args, client).await,
        RolloutCommand::History(args) => history(args, client).await,
    }
}

async fn patch(client: &Client, path: &str, template: &Value, during: &str) -> Result<(), Failure> {
    let body = json!({ "spec": { "template": template } }).to_string();
    let ask = Ask::new(Method::PATCH, path).body(media::MERGE_PATCH, body);
    client.json::<Value>(ask).await.map(drop).map_err(|failure| failure.during(during))
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    Over,
    Waits(String),
    Stuck(String),
}

fn stand(deployment: &Value) -> Stand {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    if count(&status["observedGeneration"]) < count(&deployment["metadata"]["generation"]) {
        return Stand::Waits("the leader to see the change".into());
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(stuck) = conditions.iter().find(|one| one["reason"] == "ProgressDeadlineExceeded") {
        return Stand::Stuck(stuck["message"].as_str().unwrap_or("it does not get on").to_owned());
    }
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    let (all, new) = (count(&status["replicas"]), count(&status["updatedReplicas"]));
    let available = count(&status["availableReplicas"]);
    if new < wanted {
        return Stand::Waits(format!("{new} of {wanted} new pods are made"));
    }
    if all > new {
        return Stand::Waits(format!("{} old pods are still to end", all - new));
    }
    if available < new {
        return Stand::Waits(format!("{available} of {new} new pods are available"));
    }
    Stand::Over
}

async fn status(args: &StatusArgs, client: &Client) -> Result<(), Failure> {
    let (target, title) = args.one.target()?;
    let path = args.one.path(&target);
    let watch = async {
        let mut said = String::new();
        loop {
            match stand(&client.get(&path).await.map_err(|failure: Failure| failure.during(format!("read {title}")))?) {
                Stand::Over => return say!("{title} is rolled out"),
                Stand::Stuck(why) => {
                    return Err(Failure::failed(format!("{title} is not rolled out: {why}"))
                        .hint(format!("kith describe {title} shows why; kith rollout undo {title} goes back")));
                }
                Stand::Waits(what) if args.no_wait => return say!("{title}: {what}"),
                Stand::Waits(what) if what != said => {
                    note!("{title}: {what}");
                    said = what;
                }
                Stand::Waits(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(args.timeout, watch).await.map_err(|_| {
        Failure::failed(format!("{title} is not rolled out after {:?}", args.timeout))
            .hint(format!("kith describe {title} shows why"))
    })?
}

/// Its ReplicaSets with their numbers, oldest first.
async fn sets(target: &Target, namespace: &Namespace, client: &Client) -> Result<Vec<(u64, Value)>, Failure> {
    let all = Target { kind: &kind::REPLICA_SET, name: None };
    let mut list: Value = client.get(&all.path(Some(namespace.name()))).await?;
    let owned = |set: &Value| {
        let owners = set["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        owners.iter().any(|owner| owner["kind"] == "Deployment" && owner["name"].as_str() == target.name.as_deref())
    };
    let number = |set: &Value| set["metadata"]["annotations"][REVISION].as_str()?.parse().ok();
    let owned = items(&mut list).into_iter().filter(owned);
    let mut found: Vec<(u64, Value)> = owned.filter_map(|set| Some((number(&set)?, set))).collect();
    found.sort_by_key(|(number, _)| *number);
    Ok(found)
}

async fn undo(args: &UndoArgs, client: &Client) -> Result<(), Failure> {
    let (target, title) = args.one.target()?;
    let path = args.one.path(&target);
    let deployment: Value =
        client.get(&path).await.map_err(|failure: Failure| failure.during(format!("read {title}")))?;
    let mut sets = sets(&target, &args.one.namespace, client).await?;
    let newest = sets.pop();
    let chosen = match args.to_revision {
        Some(wanted) => sets.iter().find(|(number, _)| *number == wanted),
        None => sets.last(),
    };
    let Some((number, set)) = chosen else {
        let known: Vec<String> = sets.iter().map(|(number, _)| number.to_string()).collect();
        let known = if known.is_empty() { "none is kept".to_owned() } else { format!("kept are {}", known.join(", ")) };
        return Err(Failure::new(Code::Refused, format!("{title} has no such earlier template: {known}"))
            .hint(format!("kith rollout history {title} lists them")));
    };
    drop(newest);
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(TEMPLATE_HASH);
    }
    // The whole template, so that nothing of the newer one stays; and only if nobody changed it meanwhile.
    let body = json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": deployment["metadata"]["resourceVersion"] },
        { "op": "replace", "path": "/spec/template", "value": template },
    ]);
    let ask = Ask::new(Method::PATCH, &path).body(media::JSON_PATCH, body.to_string());
    client.json::<Value>(ask).await.map_err(|failure| failure.during(format!("take {title} back")))?;
    say!("{title} goes back to template {number}")
}

async fn history(args: &OneArgs, client: &Client) -> Result<(), Failure> {
    let (target, title) = args.target()?;
    let sets = sets(&target, &args.namespace, client).await?;
    if sets.is_empty() {
        note!("{title} has no templates yet");
        return Ok(());
    }
    let mut table = Table::new(["REVISION", "REPLICASET", "PODS", "IMAGES"]);
    for (number, set) in &sets {
        let containers =
            set["spec"]["template"]["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let images: Vec<&str> = containers.iter().filter_map(|one| one["image"].as_str()).collect();
        let pods = set["status"]["replicas"].as_u64().unwrap_or(0);
        table.row([number.to_string(), name_of(set).to_owned(), pods.to_string(), images.join(", ")]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_over_when_only_new_pods_are_there_and_available() {
        let deployment = |all: u64, new: u64, available: u64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": {"observedGeneration": 2,
                "replicas": all, "updatedReplicas": new, "availableReplicas": available}})
        };
        assert_eq!(stand(&deployment(3, 3, 3)), Stand::Over);
        for (counts, part) in
            [((4, 1, 3), "1 of 3 new"), ((4, 3, 4), "1 old pods"), ((3, 3, 2), "2 of 3 new pods are available")]
        {
            let Stand::Waits(what) = stand(&deployment(counts.0, counts.1, counts.2)) else { panic!("{part}") };
            assert!(what.contains(part), "{what}");
        }
        let mut unseen = deployment(3, 3, 3);
        unseen["metadata"]["generation"] = json!(3);
        assert!(matches!(stand(&unseen), Stand::Waits(_)));
        let mut stuck = deployment(4, 1, 3);
        stuck["status"]["conditions"] = json!([{"reason": "ProgressDeadlineExceeded", "message": "too long"}]);
        assert_eq!(stand(&stuck), Stand::Stuck("too long".into()));
    }
}
