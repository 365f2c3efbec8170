//! `kith plan`: what the fleet would do with manifests, and why not more, without doing it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use hyper::Method;

use super::client::{Ask, Client, media};
use super::failure::Failure;
use super::manifests;
use super::output::{self, Format, Table, raw, say};
use crate::api::fleet::{self, PlanAnswer};

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// File, folder, or - for standard input; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(crate) async fn run(args: &PlanArgs, client: &Client) -> Result<(), Failure> {
    let mut text = String::new();
    for manifest in manifests::read(&args.files, &super::target::Namespace::default())? {
        // JSON is YAML: one document for each object.
        _ = writeln!(text, "---\n{}", manifest.object);
    }
    let answer: PlanAnswer = client.json(Ask::new(Method::POST, fleet::PLAN).body(media::YAML, text)).await?;
    match args.output {
        Some(Format::Json) => output::json(&answer),
        Some(Format::Yaml) => output::yaml(&answer),
        Some(Format::Name) => answer.writes.iter().try_for_each(|w| say!("{}/{}", w.kind.to_lowercase(), w.name)),
        None | Some(Format::Wide) => raw(render(&answer).as_bytes()),
    }
}

fn render(answer: &PlanAnswer) -> String {
    let mut text = String::new();
    if answer.writes.is_empty() {
        _ = writeln!(text, "Nothing would change (revision {}).", answer.revision);
    } else {
        _ = writeln!(text, "The fleet would, from revision {} on:", answer.revision);
        let mut table = Table::bare();
        for write in &answer.writes {
            let name = if write.namespace.is_empty() {
                write.name.clone()
            } else {
                format!("{}/{}", write.namespace, write.name)
            };
            table.row([format!("  {}", write.verb), write.kind.clone(), name, write.why.clone()]);
        }
        text.push_str(&table.render());
    }
    if !answer.reasons.is_empty() {
        _ = writeln!(text, "\nIt would not do more, because:");
        for reason in &answer.reasons {
            _ = writeln!(text, "  {}: {}", reason.subject, reason.why);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fleet::{PlanReason, PlannedWrite};

    #[test]
    fn a_plan_reads_as_sentences() {
        let write = |verb: &str, kind: &str, name: &str, why: &str| PlannedWrite {
            verb: verb.into(),
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
            why: why.into(),
        };
        let answer = PlanAnswer {
            revision: 7,
            writes: vec![
                write("create", "apps/ReplicaSet", "h-1", "new template"),
                write("create", "Pod", "h-1-a", "bind to d1"),
            ],
            reasons: vec![PlanReason { subject: "Pod default/h-1-b".into(), why: "no device has port 80 free".into() }],
        };
        let expected = "\
The fleet would, from revision 7 on:
  create   apps/ReplicaSet   default/h-1     new template
  create   Pod               default/h-1-a   bind to d1

It would not do more, because:
  Pod default/h-1-b: no device has port 80 free
";
        assert_eq!(render(&answer), expected);
        assert_eq!(render(&PlanAnswer::default()), "Nothing would change (revision 0).\n");
    }
}
