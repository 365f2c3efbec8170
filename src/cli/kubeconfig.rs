//! `kith kubeconfig`: a file with which kubectl reaches the fleet through any of its devices.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::api::fleet::{self, KubeconfigAsk, KubeconfigParts};

#[derive(Debug, Args)]
pub(crate) struct KubeconfigArgs {
    /// Who the certificate is for
    #[arg(long, default_value = "admin", value_name = "NAME")]
    user: String,
    /// Groups of the user; may be given several times
    #[arg(long = "group", default_value = "system:masters", value_name = "NAME")]
    groups: Vec<String>,
    /// URL of the API, such as `https://192.0.2.7:6443` [default: this device's own]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How to print: kubectl reads both
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "yaml")]
    output: FileFormat,
}

/// What a kubeconfig may be written in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileFormat {
    Json,
    Yaml,
}

pub(crate) async fn run(args: &KubeconfigArgs, client: &Client) -> Result<(), Failure> {
    let ask = KubeconfigAsk {
        user: args.user.clone(),
        groups: args.groups.clone(),
        server: args.server.clone().unwrap_or_default(),
    };
    let parts: KubeconfigParts = client.post(fleet::KUBECONFIG, &ask).await?;
    match args.output {
        FileFormat::Json => output::json(&file(&parts)),
        FileFormat::Yaml => output::yaml(&file(&parts)),
    }
}

/// The file's content.
fn file(parts: &KubeconfigParts) -> Value {
    let context = format!("{}@{}", parts.user, parts.fleet);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": parts.fleet, "cluster": {
            "server": parts.server,
            "certificate-authority-data": STANDARD.encode(&parts.authority),
        } }],
        "users": [{ "name": parts.user, "user": {
            "client-certificate-data": STANDARD.encode(&parts.certificate),
            "client-key-data": STANDARD.encode(&parts.key),
        } }],
        "contexts": [{ "name": context, "context": { "cluster": parts.fleet, "user": parts.user } }],
        "current-context": context,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_reads_the_file() {
        let parts = KubeconfigParts {
            fleet: "f1".into(),
            user: "admin".into(),
            server: "https://10.0.0.1:6443".into(),
            authority: "CA\n".into(),
            certificate: "CERT\n".into(),
            key: "KEY\n".into(),
        };
        let text = serde_saphyr::to_string(&file(&parts)).unwrap();
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, file(&parts));
        assert_eq!(read["users"][0]["user"]["client-key-data"], "S0VZCg==");
        assert_eq!(read["current-context"], "admin@f1");
    }
}
