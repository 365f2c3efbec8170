//! `kith run`: one pod from the command line; with `--attach`, what it writes, and its exit code.

use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Ask, Client, query};
use super::failure::{Code, Failure};
use super::output::{note, raw, say};
use super::pod;
use super::target::{Namespace, Target};
use crate::resource::kind;

/// Time between looks at a pod that starts or ends.
const PAUSE: Duration = Duration::from_millis(200);

/// What happens when the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Restart {
    #[value(name = "Always")]
    Always,
    #[value(name = "OnFailure")]
    OnFailure,
    #[value(name = "Never")]
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the pod
    #[arg(value_name = "NAME")]
    name: String,
    /// Image of its container
    #[arg(long, value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    namespace: Namespace,
    /// NAME=VALUE in its environment; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Labels: a=b,c=d [default: run=NAME]
    #[arg(short, long, value_name = "LABELS", value_delimiter = ',', value_parser = pair)]
    labels: Vec<(String, String)>,
    /// When its program ends [default: always; never with --attach]
    #[arg(long, value_name = "WHEN", ignore_case = true)]
    restart: Option<Restart>,
    /// The device that it runs on [default: the fleet chooses]
    #[arg(long, value_name = "DEVICE")]
    node: Option<String>,
    /// In its device's own network
    #[arg(long)]
    host_network: bool,
    /// Print what it writes until it ends, and end with its exit code
    #[arg(long)]
    attach: bool,
    /// Delete the pod afterwards
    #[arg(long, requires = "attach")]
    rm: bool,
    /// The words are the program and its arguments, not arguments of the image's program
    #[arg(long)]
    command: bool,
    /// Arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    args: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let found = text.split_once('=').filter(|(name, _)| !name.is_empty());
    found.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or(format!("{text:?} is not NAME=VALUE"))
}

/// The pod that the flags describe.
fn manifest(args: &RunArgs) -> Value {
    let restart = args.restart.unwrap_or(if args.attach { Restart::Never } else { Restart::Always });
    let mut container = json!({"name": args.name, "image": args.image});
    if !args.args.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.args);
    }
    if !args.env.is_empty() {
        container["env"] = args.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    }
    let own = [("run".to_owned(), args.name.clone())];
    let labels = if args.labels.is_empty() { &own[..] } else { &args.labels };
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": format!("{restart:?}")}});
    if args.host_network {
        pod["spec"]["hostNetwork"] = json!(true);
    }
    if let Some(node) = &args.node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

pub(crate) async fn run(args: &RunArgs, client: &Client) -> Result<(), Failure> {
    let pods = Target { kind: &kind::POD, name: None };
    let path = pods.collection(Some(args.namespace.name()), Vec::new());
    let made: Value = client.post(&path, &manifest(args)).await?;
    if !args.attach {
        return say!("pod/{} created", args.name);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = follow(&made, client) => ended,
        _ = interrupt.recv() => Err(Failure::ended(130)),
        _ = terminate.recv() => Err(Failure::ended(143)),
    };
    if args.rm {
        let one = Target { kind: &kind::POD, name: Some(args.name.clone()) };
        let path = one.path(Some(args.namespace.name()));
        let deleted: Result<Value, Failure> = client.json(Ask::new(Method::DELETE, &path)).await;
        match deleted {
            Ok(_) => note!("pod \"{}\" deleted", args.name),
            Err(failure) => note!("{}", failure.during("delete the pod").text().trim_end()),
        }
    }
    ended
}

/// Prints what the pod's container writes, from its first line on, and tells how it ended.
async fn follow(made: &Value, client: &Client) -> Result<(), Failure> {
    let mut said = String::new();
    let path = pod::path(made, "");
    let path = path.trim_end_matches('/');
    loop {
        let pod: Value = client.get(path).await?;
        let state = state(&pod);
        if state["running"].is_object() || state["terminated"].is_object() {
            break;
        }
        if let Some(reason) = state["waiting"]["reason"].as_str().filter(|reason| *reason != "ContainerCreating")
            && reason != said
        {
            reason.clone_into(&mut said);
            note!("waiting: {reason} {}", state["waiting"]["message"].as_str().unwrap_or_default());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let log = format!("{}{}", pod::path(made, "log"), query([("follow", "true".to_owned())]));
    let mut stream = client.stream(Ask::get(&log).accept("*/*")).await?;
    while let Some(bytes) = stream.chunk().await? {
        raw(&bytes)?;
    }
    loop {
        let pod: Value = client.get(path).await?;
        if let Some(code) = state(&pod)["terminated"]["exitCode"].as_i64() {
            let code = u8::try_from(code).unwrap_or(1);
            return if code == 0 { Ok(()) } else { Err(Failure::ended(code)) };
        }
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return Err(Failure::new(Code::Refused, "the pod was deleted meanwhile"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn state(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["state"].clone()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn flags_make_a_pod() {
        let words = "run web --image hello:1 --env A=b=c --attach --rm -- echo hi";
        let pod = manifest(&Line::try_parse_from(words.split(' ')).unwrap().run);
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["metadata"]["labels"]["run"], "web");
        let container = &pod["spec"]["containers"][0];
        assert_eq!((&container["args"], &container["env"][0]["value"]), (&json!(["echo", "hi"]), &json!("b=c")));
        let words = "run web --image hello:1 --command --restart OnFailure -- echo";
        let pod = manifest(&Line::try_parse_from(words.split(' ')).unwrap().run);
        assert_eq!(pod["spec"]["restartPolicy"], "OnFailure");
        assert_eq!(pod["spec"]["containers"][0]["command"], json!(["echo"]));
        assert!(Line::try_parse_from("run web --image i --rm".split(' ')).is_err());
    }
}
