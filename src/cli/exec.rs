//! `kith exec`: a program in a container, with this terminal if wanted. Its exit code is the command's.

use clap::Args;

use super::client::{Client, query};
use super::failure::Failure;
use super::output::note;
use super::pod::streams::{self, Sink, Source};
use super::pod::{self, terminal};
use super::target::Namespace;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// POD, pod/NAME or deployment/NAME
    #[arg(value_name = "OBJECT")]
    object: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: &ExecArgs, client: &Client) -> Result<(), Failure> {
    let pod = pod::find(&args.object, args.namespace.name(), client).await?;
    let tty = args.tty && (!args.stdin || terminal::is_one());
    if args.tty && !tty {
        note!("no terminal is used: standard input is none");
    }
    let source = if args.stdin { Source::Stdin } else { Source::Nothing };
    let how = How { container: pod::container(&pod, args.container.as_deref()), tty, stdin: args.stdin };
    let socket = client.upgrade(&how.path(&pod, &args.command)).await?;
    streams::run(socket, source, Sink::Stdout, tty).await
}

/// How a program is run.
pub(crate) struct How {
    pub(crate) container: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
}

impl How {
    /// The path that runs a command in a pod.
    pub(crate) fn path(&self, pod: &serde_json::Value, command: &[String]) -> String {
        let mut pairs = vec![("container", self.container.clone()), ("stdout", "true".to_owned())];
        let flags = [("stdin", self.stdin), ("tty", self.tty), ("stderr", !self.tty)];
        pairs.extend(flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "true".to_owned())));
        pairs.extend(command.iter().map(|word| ("command", word.clone())));
        format!("{}{}", pod::path(pod, "exec"), query(pairs))
    }
}
