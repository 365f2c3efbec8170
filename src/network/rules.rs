//! Kith's one table of the packet filter, `kith`: who may reach pods, which ports of the device lead
//! to them, and what pods look like outside. It is always written whole and in one step, from the
//! pods that there are; tables of others are never touched.
//!
//! ```text
//! guard        from pods: nothing to 127.0.0.0/8, nothing with a stranger's address
//! forward      to pods: only answers and published ports
//! prerouting   -> ports      from outside and from pods
//! output       -> ports      from the device itself
//! ports        hostPort -> pod
//! postrouting  pods leave with the device's address
//! ```

use std::io;
use std::net::Ipv4Addr;

use super::netfilter::{APPEND, Attributes, CREATE, DUMP, Messages, Netfilter, is_absent};
use crate::config::Range;
use crate::reconciler::sandbox::{Protocol, PublishedPort};

/// The table.
pub(super) const TABLE: &str = "kith";
/// The bridge that all pods of a device are plugged into.
pub(crate) const BRIDGE: &str = "kith0";
/// What only the device itself may reach.
const LOOPBACK: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0));

const IPV4: u8 = 2;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = (NFTABLES << 8) | 2;
const NEW_CHAIN: u16 = (NFTABLES << 8) | 3;
const NEW_RULE: u16 = (NFTABLES << 8) | 6;
const GET_RULE: u16 = (NFTABLES << 8) | 7;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const LIST_ELEMENT: u16 = 1;
const ACCEPT: i32 = 1;
const DROP: i32 = 0;
const JUMP: i32 = -3;

/// Where the address of a sender and of a receiver stand in the header of IPv4.
const SENDER: u32 = 12;
const RECEIVER: u32 = 16;

/// One port and the pod that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) port: PublishedPort,
    pub(super) pod: Ipv4Addr,
    /// Whose it is, for those who read the rules: `default/web-1`.
    pub(super) name: String,
}

/// Everything that the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// The addresses of this device's pods.
    pub(super) range: Range,
    /// Whether the device passed on others' packets before Kith made it do so for pods.
    pub(super) forwards: bool,
    pub(super) ports: Vec<Published>,
}

/// One rule, as the kernel's list of expressions.
#[derive(Clone, Debug, Default)]
struct Rule {
    expressions: Attributes,
    comment: String,
}

impl Rule {
    fn expression(mut self, name: &str, data: &Attributes) -> Self {
        let element = Attributes::default().text(1, name).nested(2, data);
        self.expressions = self.expressions.nested(LIST_ELEMENT, &element);
        self
    }

    /// Goes on only if what was loaded is this, or is not.
    fn compare(self, equal: bool, value: &[u8]) -> Self {
        let data = Attributes::default().number(1, 1).number(2, u32::from(!equal));
        self.expression("cmp", &data.nested(3, &Attributes::default().bytes(1, value)))
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", &Attributes::default().number(2, key).number(1, 1))
    }

    fn load(self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::default().number(1, 1).number(2, base).number(3, offset).number(4, length);
        self.expression("payload", &data)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        let data = Attributes::default().number(1, 1).number(2, 1).number(3, length);
        let data = data.nested(4, &Attributes::default().bytes(1, mask));
        self.expression("bitwise", &data.nested(5, &Attributes::default().bytes(1, &vec![0; mask.len()])))
    }

    /// Came in over the bridge, or not.
    fn came_by_bridge(self) -> Self {
        self.meta(6).compare(true, &interface(BRIDGE))
    }

    /// Goes out over the bridge, or not.
    fn leaves_by_bridge(self, yes: bool) -> Self {
        self.meta(7).compare(yes, &interface(BRIDGE))
    }

    /// The sender or receiver is in this range, or not.
    fn address(self, which: u32, range: (Ipv4Addr, Ipv4Addr), inside: bool) -> Self {
        let rule = self.load(1, which, 4);
        let (base, mask) = range;
        let rule = if mask == Ipv4Addr::BROADCAST { rule } else { rule.mask(&mask.octets()) };
        rule.compare(inside, &base.octets())
    }

    /// The receiver is one of the device's own addresses.
    fn for_device(self) -> Self {
        /// `RTN_LOCAL`.
        const LOCAL: u32 = 2;
        let data = Attributes::default().number(1, 1).number(2, 3).number(3, 2);
        self.expression("fib", &data).compare(true, &LOCAL.to_ne_bytes())
    }

    /// The connection's state (key 0) or status (key 2) has one of these bits.
    fn connection(self, key: u32, bits: u32) -> Self {
        let rule = self.expression("ct", &Attributes::default().number(2, key).number(1, 1));
        rule.mask(&bits.to_ne_bytes()).compare(false, &0u32.to_ne_bytes())
    }

    fn answering(self) -> Self {
        /// Established and related.
        const BITS: u32 = 2 | 4;
        self.connection(0, BITS)
    }

    /// Was sent to a port that leads to a pod.
    fn by_published_port(self) -> Self {
        /// `IPS_DST_NAT`.
        const BIT: u32 = 1 << 5;
        self.connection(2, BIT)
    }

    fn verdict(self, code: i32, chain: &str) -> Self {
        let verdict = Attributes::default().number(1, code.cast_unsigned());
        let verdict = if chain.is_empty() { verdict } else { verdict.text(2, chain) };
        let data = Attributes::default().nested(2, &verdict);
        self.expression("immediate", &Attributes::default().number(1, 0).nested(2, &data))
    }

    fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::default())
    }

    /// Leads to a pod's port.
    fn lead_to(self, pod: Ipv4Addr, port: u16) -> Self {
        let immediate = |register: u32, value: &[u8]| {
            let value = Attributes::default().bytes(1, value);
            Attributes::default().number(1, register).nested(2, &value)
        };
        let nat = Attributes::default().number(1, 1).number(2, u32::from(IPV4)).number(3, 1).number(5, 2);
        self.expression("immediate", &immediate(1, &pod.octets()))
            .expression("immediate", &immediate(2, &port.to_be_bytes()))
            .expression("nat", &nat)
    }

    fn published(published: &Published) -> Self {
        let port = &published.port;
        let protocol: u8 = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let mut rule = Self { comment: published.name.clone(), ..Self::default() };
        if let Some(address) = port.host_ip {
            rule = rule.address(RECEIVER, (address, Ipv4Addr::BROADCAST), true);
        }
        rule = rule.meta(16).compare(true, &[protocol]);
        rule = rule.load(2, 2, 2).compare(true, &port.host_port.to_be_bytes());
        rule.lead_to(published.pod, port.port)
    }
}

/// An interface's name, as long as the kernel compares.
fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// A chain: its name, and where it is hooked in: type, hook, priority.
type Chain = (&'static str, Option<(&'static str, u32, i32)>);

impl Rules {
    fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let rule = Rule::default;
        let pods = (self.range.base(), self.range.mask());
        let mut forward = vec![
            rule().came_by_bridge().verdict(ACCEPT, ""),
            rule().leaves_by_bridge(true).answering().verdict(ACCEPT, ""),
            rule().leaves_by_bridge(true).by_published_port().verdict(ACCEPT, ""),
            rule().leaves_by_bridge(true).verdict(DROP, ""),
        ];
        if !self.forwards {
            // A device that routed nothing before is no router for strangers now.
            forward.push(rule().verdict(DROP, ""));
        }
        let guard = vec![
            rule().came_by_bridge().address(RECEIVER, LOOPBACK, true).verdict(DROP, ""),
            rule().came_by_bridge().address(SENDER, pods, false).verdict(DROP, ""),
        ];
        let postrouting = vec![
            rule().leaves_by_bridge(true).address(SENDER, LOOPBACK, true).masquerade(),
            // From a pod by the device's address to a pod: the answer has to come the same way.
            rule().address(SENDER, pods, true).address(RECEIVER, pods, true).by_published_port().masquerade(),
            rule().address(SENDER, pods, true).leaves_by_bridge(false).masquerade(),
        ];
        let lead = || vec![rule().for_device().verdict(JUMP, "ports")];
        vec![
            // First, as others jump to it.
            (("ports", None), self.ports.iter().map(Rule::published).collect()),
            (("guard", Some(("filter", 0, -300))), guard),
            (("forward", Some(("filter", 2, 0))), forward),
            (("prerouting", Some(("nat", 0, -100))), lead()),
            (("output", Some(("nat", 3, -100))), lead()),
            (("postrouting", Some(("nat", 4, 100))), postrouting),
        ]
    }

    /// How many rules the table has when nobody took any away.
    pub(super) fn count(&self) -> usize {
        self.chains().iter().map(|(_, rules)| rules.len()).sum()
    }

    /// Puts the table in place of the one that is there, at once or not at all.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut batch = begin();
        replace(&mut batch);
        batch.push(NEW_TABLE, CREATE, IPV4, 0, &Attributes::default().text(1, TABLE));
        let chains = self.chains();
        for ((name, hook), _) in &chains {
            let mut attributes = Attributes::default().text(1, TABLE).text(3, name);
            if let Some((kind, hook, priority)) = hook {
                let hook = Attributes::default().number(1, *hook).number(2, priority.cast_unsigned());
                attributes = attributes.nested(4, &hook).text(7, kind);
            }
            batch.push(NEW_CHAIN, CREATE, IPV4, 0, &attributes);
        }
        for ((chain, _), rules) in &chains {
            for rule in rules {
                let mut attributes = Attributes::default().text(1, TABLE).text(2, chain).nested(4, &rule.expressions);
                if !rule.comment.is_empty() {
                    attributes = attributes.bytes(7, &comment(&rule.comment));
                }
                batch.push(NEW_RULE, CREATE | APPEND, IPV4, 0, &attributes);
            }
        }
        commit(batch)
    }
}

/// The comment of a rule, as `nft` keeps it: kind, length, text.
fn comment(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.bytes().take(120).chain([0]).collect();
    [vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)], text].concat()
}

/// Removes the table. Returns whether there was one.
pub(super) fn remove() -> io::Result<bool> {
    let mut batch = begin();
    batch.push(DELETE_TABLE, 0, IPV4, 0, &Attributes::default().text(1, TABLE));
    match commit(batch) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many rules the table has; 0 where there is none.
pub(super) fn count() -> io::Result<usize> {
    let mut messages = Messages::default();
    messages.push(GET_RULE, DUMP, IPV4, 0, &Attributes::default().text(1, TABLE));
    match Netfilter::open()?.ask(&messages, 1) {
        Ok(answers) => {
            let ours = answers.iter().filter(|answer| answer.kind == NEW_RULE);
            Ok(ours.filter(|answer| is_ours(&answer.attributes)).count())
        }
        Err(error) if is_absent(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn is_ours(attributes: &[u8]) -> bool {
    let mut all = Attributes::parse(attributes).into_iter();
    all.any(|(kind, value)| kind == 1 && value.strip_suffix(&[0]) == Some(TABLE.as_bytes()))
}

fn begin() -> Messages {
    let mut batch = Messages::default();
    batch.push(BATCH_BEGIN, 0, 0, NFTABLES, &Attributes::default());
    batch
}

/// Made first, so that removing it never fails.
fn replace(batch: &mut Messages) {
    let table = Attributes::default().text(1, TABLE);
    batch.push(NEW_TABLE, CREATE, IPV4, 0, &table);
    batch.push(DELETE_TABLE, 0, IPV4, 0, &table);
}

fn commit(mut batch: Messages) -> io::Result<()> {
    let last = batch.acknowledge_last();
    batch.push(BATCH_END, 0, 0, NFTABLES, &Attributes::default());
    Netfilter::open()?.ask(&batch, last).map(drop)
}
