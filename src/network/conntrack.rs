//! Forgets what the kernel remembers of datagrams to published ports. UDP has no end that the kernel
//! could see: without this, packets of a sender that never pauses would go on to a pod that is gone,
//! or past one that has just come.

use std::io;
use std::net::Ipv4Addr;

use super::netfilter::{Attributes, DUMP, Messages, Netfilter, is_absent};
use crate::reconciler::sandbox::{Protocol, PublishedPort};

const IPV4: u8 = 2;
const CONNTRACK: u16 = 1;
const GET: u16 = (CONNTRACK << 8) | 1;
const DELETE: u16 = (CONNTRACK << 8) | 2;
/// Attributes of an entry: how its first packet came, and how answers go.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const UDP: u8 = 17;

/// Forgets datagrams that go to this pod, or to a port that leads to it.
pub(super) fn forget(ports: &[PublishedPort], pod: Option<Ipv4Addr>) -> io::Result<()> {
    let ports: Vec<u16> =
        ports.iter().filter(|port| port.protocol == Protocol::Udp).map(|port| port.host_port).collect();
    if ports.is_empty() {
        return Ok(());
    }
    let netfilter = Netfilter::open()?;
    let mut ask = Messages::default();
    ask.push(GET, DUMP, IPV4, 0, &Attributes::default());
    for entry in netfilter.ask(&ask, 1)? {
        let attributes = Attributes::parse(&entry.attributes);
        let Some(original) = nested(&attributes, ORIGINAL) else { continue };
        let to_port = port_of(original).is_some_and(|port| ports.contains(&port));
        let to_pod = pod.is_some() && nested(&attributes, REPLY).and_then(sender) == pod;
        if !is_udp(original) || !(to_port || to_pod) {
            continue;
        }
        let mut forget = Messages::default();
        forget.push(DELETE, 0, IPV4, 0, &Attributes::default().nested(ORIGINAL, &Attributes::raw(original)));
        let last = forget.acknowledge_last();
        match netfilter.ask(&forget, last) {
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn nested<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
}

/// What a direction says of its ports and its protocol.
fn transport(tuple: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    nested(&Attributes::parse(tuple), 2).map(Attributes::parse)
}

fn is_udp(tuple: &[u8]) -> bool {
    transport(tuple).and_then(|found| nested(&found, 1)?.first().copied()) == Some(UDP)
}

fn port_of(tuple: &[u8]) -> Option<u16> {
    transport(tuple).and_then(|found| Some(u16::from_be_bytes(*nested(&found, 3)?.first_chunk()?)))
}

fn sender(tuple: &[u8]) -> Option<Ipv4Addr> {
    let addresses = Attributes::parse(nested(&Attributes::parse(tuple), 1)?);
    nested(&addresses, 1)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}
