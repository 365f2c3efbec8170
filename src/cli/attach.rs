//! `kith attach`: what a container writes from now on, its two streams apart; with `-i` and `-t`, its own
//! input and terminal.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::failure::Failure;
use super::output::note;
use super::pod::streams::{self, Sink, Source};
use super::pod::{self, terminal};
use super::target::Namespace;

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// POD, pod/NAME or deployment/NAME
    #[arg(value_name = "OBJECT")]
    object: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on to the container's own (`stdin: true`)
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container has a terminal (`tty: true`): pass keys and the size of this one on
    #[arg(short, long)]
    tty: bool,
}

pub(crate) async fn run(args: &AttachArgs, client: &Client) -> Result<(), Failure> {
    let pod = pod::find(&args.object, args.namespace.name(), client).await?;
    let container = pod::container(&pod, args.container.as_deref());
    let how = How { container, stdin: args.stdin, tty: args.tty };
    how.run(&pod, client).await
}

/// How to attach to a container.
pub(crate) struct How {
    pub(crate) container: String,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

impl How {
    /// Attaches until the container ends, or this side does.
    pub(crate) async fn run(&self, pod: &Value, client: &Client) -> Result<(), Failure> {
        let tty = self.tty && (!self.stdin || terminal::is_one());
        if self.tty && !tty {
            note!("this terminal is not passed on: standard input is none");
        } else if tty && self.stdin {
            note!("if there is no prompt, press enter");
        }
        let flags = [("stdin", self.stdin), ("tty", tty), ("stdout", true), ("stderr", !tty)];
        let flags = flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "true".to_owned()));
        let pairs = std::iter::once(("container", self.container.clone())).chain(flags);
        let socket = client.upgrade(&format!("{}{}", pod::path(pod, "attach"), query(pairs))).await?;
        let source = if self.stdin { Source::Stdin } else { Source::Nothing };
        streams::run(socket, source, Sink::Stdout, tty).await
    }
}
