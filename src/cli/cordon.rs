//! `kith cordon`, `kith uncordon`: a device takes no new pods and does not lead, or does again. What
//! runs on it goes on.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Ask, Client, escape, media};
use super::failure::Failure;
use super::output::say;

#[derive(Debug, Args)]
pub(crate) struct CordonArgs {
    /// Names of devices
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<String>,
}

pub(crate) async fn run(args: &CordonArgs, cordon: bool, client: &Client) -> Result<(), Failure> {
    for device in &args.devices {
        set(device, cordon, client).await?;
    }
    Ok(())
}

/// Cordons a device, or ends that.
pub(super) async fn set(device: &str, cordon: bool, client: &Client) -> Result<(), Failure> {
    let path = format!("/api/v1/nodes/{}", escape(device));
    let patch = json!({ "spec": { "unschedulable": if cordon { json!(true) } else { Value::Null } } }).to_string();
    let ask = Ask::new(Method::PATCH, &path).body(media::MERGE_PATCH, patch);
    client.json::<Value>(ask).await.map_err(|failure| failure.during(format!("change node/{device}")))?;
    say!("node/{device} {}", if cordon { "cordoned" } else { "uncordoned" })
}
