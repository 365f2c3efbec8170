//! `kith scale`: more or fewer copies.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Ask, Client, media};
use super::failure::Failure;
use super::output::say;
use super::target::{self, Namespace, title};

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// TYPE NAME, or TYPE/NAME: deployment/hello
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    /// How many copies
    #[arg(long, value_name = "COUNT")]
    replicas: u32,
    #[command(flatten)]
    namespace: Namespace,
}

pub(crate) async fn run(args: &ScaleArgs, client: &Client) -> Result<(), Failure> {
    for target in target::parse(&args.objects)? {
        let Some(name) = &target.name else {
            return Err(Failure::usage("say which object: kith scale deployment/NAME --replicas COUNT"));
        };
        let title = title(target.kind, name);
        if !target.kind.subresources.contains(&"scale") {
            return Err(Failure::usage(format!("{title} has no copies to change: scale deployments and replicasets")));
        }
        let path = format!("{}/scale", target.path(Some(args.namespace.name())));
        let patch = json!({ "spec": { "replicas": args.replicas } }).to_string();
        let ask = Ask::new(Method::PATCH, &path).body(media::MERGE_PATCH, patch);
        client.json::<Value>(ask).await.map_err(|failure| failure.during(format!("scale {title}")))?;
        say!("{title} scaled")?;
    }
    Ok(())
}
