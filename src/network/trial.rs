//! Whether the kernel can do all that pods' networks need, tried in a network namespace that nobody
//! else sees and that ends with the trial; and what other tables of the packet filter do.

use std::io;
use std::net::Ipv4Addr;

use nix::sched::{CloneFlags, unshare};

use super::link::Links;
use super::netfilter::{Attributes, DUMP, Messages, Netfilter};
use super::rules::{Published, Rules};
use crate::config::Range;
use crate::reconciler::sandbox::{Protocol, PublishedPort};

/// Messages of the packet filter.
const GET_CHAIN: u16 = (10 << 8) | 4;
const NEW_CHAIN: u16 = (10 << 8) | 3;
const GET_RULE: u16 = (10 << 8) | 7;
const NEW_RULE: u16 = (10 << 8) | 6;

/// Families of tables, with the names that `nft` has for them.
const FAMILIES: [(u8, &str); 3] = [(2, "ip"), (10, "ip6"), (1, "inet")];

/// Hooks by their numbers.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

/// What worked.
#[derive(Debug)]
pub struct Trial {
    /// All of Kith's rules, with a published port of each protocol.
    pub rules: io::Result<()>,
    /// A bridge.
    pub bridge: Result<(), String>,
    /// A cable that is plugged into it.
    pub cable: Result<(), String>,
}

/// Tries it all. Needs root.
pub fn trial() -> io::Result<Trial> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (bridge, cable) = runtime.block_on(links());
            Ok(Trial { rules: rules(), bridge, cable })
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn links() -> (Result<(), String>, Result<(), String>) {
    let links = match Links::open() {
        Ok(links) => links,
        Err(error) => return (Err(error.to_string()), Err("without a bridge it was not tried".into())),
    };
    let bridge = links.add_bridge("kith0").await.map_err(|error| error.to_string());
    let lay = async {
        let here = std::fs::File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        let far = std::os::fd::AsFd::as_fd(&here);
        let laid = links.lay_cable_to("kith-try", [2, 0, 0, 0, 0, 1], 1500, far, "kith-far").await;
        laid.map_err(|error| error.to_string())?;
        links.plug_in("kith-try", "kith0").await.map_err(|error| error.to_string())
    };
    (bridge, lay.await)
}

fn rules() -> io::Result<()> {
    let pod = Ipv4Addr::new(10, 42, 0, 2);
    let port = |protocol| PublishedPort { protocol, host_ip: None, host_port: 8080, port: 80 };
    let published = |protocol| Published { port: port(protocol), pod, name: "try/try".into() };
    let ports = vec![published(Protocol::Tcp), published(Protocol::Udp)];
    Rules { range: Range::DEFAULT.of_device(0), forwards: false, ports }.write()
}

/// A chain that the kernel asks about packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `input`, `forward`, ...
    pub hook: &'static str,
    /// Whether it drops what no rule decides on.
    pub drops: bool,
    /// How many rules it has.
    pub rules: usize,
}

/// The chains of others that are hooked in. Needs root.
pub fn chains() -> io::Result<Vec<Hooked>> {
    let mut found = Vec::new();
    for (number, family) in FAMILIES {
        let dump = |kind| {
            let mut messages = Messages::default();
            messages.push(kind, DUMP, number, 0, &Attributes::default());
            Netfilter::open()?.ask(&messages, 1)
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        let rules: Vec<(String, String)> = dump(GET_RULE)?
            .iter()
            .filter(|answer| answer.kind == NEW_RULE)
            .map(|answer| {
                let value = |wanted: u16| {
                    let all = Attributes::parse(&answer.attributes);
                    all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value)).unwrap_or_default()
                };
                (value(1), value(2))
            })
            .collect();
        for answer in dump(GET_CHAIN)?.iter().filter(|answer| answer.kind == NEW_CHAIN) {
            if let Some(chain) = hooked(family, &answer.attributes) {
                let of_it = |(table, name): &&(String, String)| *table == chain.table && *name == chain.name;
                let rules = rules.iter().filter(of_it).count();
                found.push(Hooked { rules, ..chain });
            }
        }
    }
    Ok(found)
}

/// A chain of somebody else, if it is hooked in.
fn hooked(family: &'static str, attributes: &[u8]) -> Option<Hooked> {
    let all = Attributes::parse(attributes);
    let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let hook = Attributes::parse(value(4)?);
    let hook = hook.iter().find(|(kind, _)| *kind == 1).and_then(|(_, value)| number(value))?;
    let table = value(1).map(text)?;
    let ours = table == super::rules::TABLE && family == "ip";
    let drops = value(5).and_then(number) == Some(0);
    let hook = HOOKS.get(usize::try_from(hook).ok()?).copied()?;
    (!ours).then(|| Hooked { family, table, name: value(3).map(text).unwrap_or_default(), hook, drops, rules: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_the_tests_can_do_it_all() {
        let trial = trial().expect("this test needs root");
        trial.rules.unwrap();
        trial.bridge.unwrap();
        trial.cable.unwrap();
    }

    #[test]
    fn a_chain_that_drops_is_found_with_its_rules() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
            let input = "add table inet guard; add chain inet guard in { type filter hook input priority 0; policy drop; }; \
                 add rule inet guard in tcp dport 22 accept; add chain inet guard aside";
            let made = std::process::Command::new("nft").arg(input).status().expect("apt-get install nftables");
            assert!(made.success());
            rules().unwrap();
            chains().unwrap()
        });
        let guard =
            Hooked { family: "inet", table: "guard".into(), name: "in".into(), hook: "input", drops: true, rules: 1 };
        assert_eq!(thread.join().unwrap(), [guard], "Kith's own table is left out");
    }
}
