//! `kith debug`: a container from another image beside those of a running pod, in its network and, with
//! `--target`, with the processes of one of them; or a pod that sees the whole of a device.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::attach;
use super::client::{Ask, Client, media};
use super::failure::{Code, Failure};
use super::output::{note, say};
use super::pod::life::{self, Life};
use super::target::{self, Namespace, Target, name_of};
use crate::resource::kind;

/// Where a pod that looks at a device sees its root.
const HOST: &str = "/host";

#[derive(Debug, Args)]
pub(crate) struct DebugArgs {
    /// POD, pod/NAME, deployment/NAME, or node/NAME for a device
    #[arg(value_name = "OBJECT")]
    object: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Image of the container that is added
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// See the processes of this container of the pod
    #[arg(long, value_name = "CONTAINER")]
    target: Option<String>,
    /// Name of the container that is added [default: debugger-...]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// NAME=VALUE in its environment; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::run::pair)]
    env: Vec<(String, String)>,
    /// Give it this standard input; attaches
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal; attaches
    #[arg(short, long)]
    tty: bool,
    /// Print what it writes until it ends, and end with its exit code
    #[arg(long)]
    attach: bool,
    /// Program and arguments [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl DebugArgs {
    /// The container that is added.
    fn container(&self, name: &str) -> Value {
        let mut container = json!({"name": name, "image": self.image});
        for (field, on) in [("stdin", self.stdin), ("stdinOnce", self.stdin), ("tty", self.tty)] {
            if on {
                container[field] = json!(true);
            }
        }
        if !self.env.is_empty() {
            container["env"] = self.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
        if !self.command.is_empty() {
            container["command"] = json!(self.command);
        }
        container
    }
}

pub(crate) async fn run(args: &DebugArgs, client: &Client) -> Result<(), Failure> {
    let name = args.container.clone().unwrap_or_else(|| format!("debugger-{}", suffix()));
    let how = attach::How { container: name, stdin: args.stdin, tty: args.tty };
    if let Some(device) = device(&args.object) {
        return on_device(args, device, &how, client).await;
    }
    let pod = super::pod::find(&args.object, args.namespace.name(), client).await?;
    let mut container = args.container(&how.container);
    if let Some(target) = &args.target {
        container["targetContainerName"] = json!(target);
    }
    let path = super::pod::path(&pod, "ephemeralcontainers");
    let patch = json!({"spec": {"ephemeralContainers": [container]}});
    let ask = Ask::new(Method::PATCH, &path).body(media::STRATEGIC_PATCH, patch.to_string());
    let changed: Value = client.json(ask).await?;
    if pod["status"]["phase"] != "Running" {
        note!("pod {} is {}: the container begins with its others", name_of(&pod), pod["status"]["phase"]);
    }
    let life = Life { pod: &changed, list: "ephemeralContainerStatuses", how: &how, client, impatient: false };
    finish(args, &life).await
}

/// Attaches, or says how.
async fn finish(args: &DebugArgs, life: &Life<'_>) -> Result<(), Failure> {
    let (name, container) = (name_of(life.pod), &life.how.container);
    note!("container {container} in pod {name}");
    if args.stdin || args.tty || args.attach {
        return life.whole().await;
    }
    let namespace = super::target::namespace_of(life.pod);
    say!("kith logs -n {namespace} {name} -c {container}")
}

/// The name of the device that is meant, if one is.
fn device(object: &str) -> Option<&str> {
    let (kind, name) = object.split_once('/')?;
    let kind = if kind == "device" { "node" } else { kind };
    target::find_kind(kind).ok().filter(|found| **found == kind::NODE).map(|_| name)
}

/// Makes a pod that sees the device's files, processes and network, and deletes it afterwards.
async fn on_device(args: &DebugArgs, device: &str, how: &attach::How, client: &Client) -> Result<(), Failure> {
    if args.target.is_some() {
        return Err(Failure::usage("--target is for pods: on a device all processes are seen"));
    }
    let node = Target { kind: &kind::NODE, name: Some(device.to_owned()) };
    let _: Value = client.get(&node.path(None)).await?;
    let mut container = args.container(&how.container);
    container["volumeMounts"] = json!([{"name": "host", "mountPath": HOST}]);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("debug-{device}-{}", suffix())},
        "spec": {"nodeName": device, "hostNetwork": true, "hostPID": true, "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists"}], "containers": [container],
            "volumes": [{"name": "host", "hostPath": {"path": "/"}}]}});
    let pods = Target { kind: &kind::POD, name: None };
    let made: Value = client.post(&pods.collection(Some(args.namespace.name()), Vec::new()), &manifest).await?;
    note!("the device's files are at {HOST}");
    let attaches = args.stdin || args.tty || args.attach;
    let life = Life { pod: &made, list: "containerStatuses", how, client, impatient: true };
    let ended = finish(args, &life).await;
    if attaches {
        life::delete(&made, client).await;
    }
    ended.map_err(|failure| match failure.code {
        Code::Refused => failure.hint(
            "the device's agent.toml has to allow it: host_paths = [\"/\"], and allow_host_pid = true under [security]",
        ),
        _ => failure,
    })
}

/// A few letters that differ from one moment to the next.
fn suffix() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    crate::resource::names::suffix(u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        debug: DebugArgs,
    }

    #[test]
    fn flags_make_a_container() {
        let words = "debug web --image tools:1 -it --env A=b -- sh -l";
        let args = Line::try_parse_from(words.split(' ')).unwrap().debug;
        let expected = json!({"name": "d", "image": "tools:1", "stdin": true, "stdinOnce": true, "tty": true,
            "env": [{"name": "A", "value": "b"}], "command": ["sh", "-l"]});
        assert_eq!(args.container("d"), expected);
        assert_eq!((device("node/a"), device("device/a"), device("no/a")), (Some("a"), Some("a"), Some("a")));
        assert_eq!((device("web"), device("pod/web")), (None, None));
    }
}
