//! `kith run`: one pod from the command line; with `--attach`, what it writes, and its exit code; with
//! `-it`, its terminal.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::attach;
use super::client::Client;
use super::failure::Failure;
use super::output::say;
use super::pod::life::{self, Life};
use super::target::{Namespace, Target};
use crate::resource::kind;

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
    /// Give it this standard input; attaches
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal; attaches
    #[arg(short, long)]
    tty: bool,
    /// Delete the pod afterwards
    #[arg(long)]
    rm: bool,
    /// The words are the program and its arguments, not arguments of the image's program
    #[arg(long)]
    command: bool,
    /// Arguments
    #[arg(last = true, value_name = "ARGUMENT")]
    args: Vec<String>,
}

impl RunArgs {
    /// Whether somebody waits for its end.
    fn attaches(&self) -> bool {
        self.attach || self.stdin || self.tty
    }
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let found = text.split_once('=').filter(|(name, _)| !name.is_empty());
    found.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or(format!("{text:?} is not NAME=VALUE"))
}

/// The pod that the flags describe.
fn manifest(args: &RunArgs) -> Value {
    let restart = args.restart.unwrap_or(if args.attaches() { Restart::Never } else { Restart::Always });
    let mut container = json!({"name": args.name, "image": args.image});
    if !args.args.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.args);
    }
    for (field, on) in [("stdin", args.stdin), ("stdinOnce", args.stdin), ("tty", args.tty)] {
        if on {
            container[field] = json!(true);
        }
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
    if args.rm && !args.attaches() {
        return Err(Failure::usage("--rm needs --attach, -i or -t: else nobody waits for its end"));
    }
    let pods = Target { kind: &kind::POD, name: None };
    let path = pods.collection(Some(args.namespace.name()), Vec::new());
    let made: Value = client.post(&path, &manifest(args)).await?;
    if !args.attaches() {
        return say!("pod/{} created", args.name);
    }
    let how = attach::How { container: args.name.clone(), stdin: args.stdin, tty: args.tty };
    let ended = Life { pod: &made, list: "containerStatuses", how: &how, client, impatient: false }.whole().await;
    if args.rm {
        life::delete(&made, client).await;
    }
    ended
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
        let pod = manifest(&Line::try_parse_from("run sh --image i -it --rm".split(' ')).unwrap().run);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            (&container["stdin"], &container["stdinOnce"], &container["tty"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
    }
}
