//! `kith attach`: what a container writes from now on, its two streams apart.

use clap::Args;

use super::client::{Client, query};
use super::failure::Failure;
use super::pod;
use super::pod::streams::{self, Sink, Source};
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
}

pub(crate) async fn run(args: &AttachArgs, client: &Client) -> Result<(), Failure> {
    let pod = pod::find(&args.object, args.namespace.name(), client).await?;
    let pairs = [
        ("container", pod::container(&pod, args.container.as_deref())),
        ("stdout", "true".to_owned()),
        ("stderr", "true".to_owned()),
    ];
    let socket = client.upgrade(&format!("{}{}", pod::path(&pod, "attach"), query(pairs))).await?;
    streams::run(socket, Source::Nothing, Sink::Stdout, false).await
}
