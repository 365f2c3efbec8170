//! `kith token`: who may join.

use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::client::{Ask, Client, escape};
use super::failure::Failure;
use super::output::{self, Format, Table, note, say};
use super::parse_span;
use crate::api::fleet::{self, TokenAsk, TokenList, TokenMade, TokenRole};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print the command that joins with it
    Create(CreateArgs),
    /// List the tokens, without their secrets
    List(ListArgs),
    /// Make tokens useless
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// How long it works
    #[arg(long, value_parser = parse_span, default_value = "1h", value_name = "SPAN")]
    ttl: Duration,
    /// How many devices may join with it
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// For a witness: a device that votes and runs nothing; no full device can join with it
    #[arg(long)]
    witness: bool,
    /// Print the token alone, for scripts
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Ids as `kith token list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(command: TokenCommand, client: &Client) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => {
            let made = create(&args, client).await?;
            match args.output {
                Some(Format::Json) => return output::json(&made),
                Some(Format::Yaml) => return output::yaml(&made),
                _ if args.quiet => return say!("{}", made.token),
                _ => {}
            }
            say!("{}", made.join_command)?;
            note!("Type this on the device that joins, within {}.", output::span(args.ttl.as_secs()));
            Ok(())
        }
        TokenCommand::List(args) => list(&args, client).await,
        TokenCommand::Revoke(args) => {
            for id in &args.ids {
                let path = format!("{}/{}", fleet::TOKENS, escape(id));
                client.json::<Value>(Ask::new(Method::DELETE, &path)).await?;
                say!("token {id} revoked")?;
            }
            Ok(())
        }
    }
}

async fn create(args: &CreateArgs, client: &Client) -> Result<TokenMade, Failure> {
    let role = if args.witness { TokenRole::Witness } else { TokenRole::Device };
    let ask = TokenAsk { ttl_seconds: args.ttl.as_secs(), uses: args.uses, role };
    client.post(fleet::TOKENS, &ask).await
}

async fn list(args: &ListArgs, client: &Client) -> Result<(), Failure> {
    let list: TokenList = client.get(fleet::TOKENS).await?;
    match args.output {
        Some(Format::Json) => return output::json(&list),
        Some(Format::Yaml) => return output::yaml(&list),
        Some(Format::Name) => return list.items.iter().try_for_each(|token| say!("{}", token.id)),
        None | Some(Format::Wide) => {}
    }
    if list.items.is_empty() {
        note!("No tokens. kith token create makes one.");
        return Ok(());
    }
    let mut table = Table::new(["ID", "ADMITS", "EXPIRES", "USES LEFT", "USED BY"]);
    for token in list.items {
        let admits = if token.role == TokenRole::Witness { "witness" } else { "device" };
        table.row([token.id, admits.to_owned(), token.expires, token.uses_left.to_string(), token.used_by.join(", ")]);
    }
    table.print()
}
