//! `kith status`: the fleet as this device sees it, and what is wrong with it. It only looks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::api::fleet::{DeviceRole, DeviceStatus, FleetStatus, Problem};
use crate::consensus::{Engine, Replica};
use crate::resource::meta;

/// A device is worth a word once it has been silent for this part of the time after which it is lost.
const WORRY: u32 = 4;

/// The fleet at a glance.
pub(crate) fn fleet_status(
    engine: &Engine,
    fleet: &str,
    device: &str,
    quorum: bool,
    lost_after: Duration,
) -> Result<FleetStatus, String> {
    let status = engine.status();
    let members = engine.members().borrow().clone();
    let name_of = |id: u64| members.get(&id).map_or_else(|| format!("member {id}"), |member| member.name.clone());
    let ready = ready_nodes(engine)?;
    let pods = pods_by_node(engine)?;
    let leads = status.leader == Some(status.member_id);
    let mut voters: Vec<String> = status.voters.keys().map(|id| name_of(*id)).collect();
    voters.sort();
    let mut devices: Vec<DeviceStatus> = members
        .iter()
        .map(|(id, member)| DeviceStatus {
            name: member.name.clone(),
            member_id: *id,
            role: match () {
                () if status.leader == Some(*id) => DeviceRole::Leader,
                () if status.voters.contains_key(id) => DeviceRole::Voter,
                () => DeviceRole::Learner,
            },
            ready: ready.get(&member.name).copied().unwrap_or(false),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
            lag: status.lag.get(id).copied(),
            last_heard_ms: status.last_heard.get(id).map(|silent| millis(*silent)),
            pods: pods.get(&member.name).copied().unwrap_or(0),
        })
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    let mut fleet = FleetStatus {
        fleet: fleet.into(),
        device: device.into(),
        member_id: status.member_id,
        version: env!("CARGO_PKG_VERSION").into(),
        leader: status.leader.map(name_of),
        term: status.term,
        quorum,
        why_voters: why_voters(members.len(), voters.len()),
        voters,
        devices,
        revision: 0,
        applied: status.applied.unwrap_or(0),
        state_hash: String::new(),
        knowledge_age_ms: if leads { 0 } else { status.contact_age.map_or(0, millis) },
        problems: Vec::new(),
    };
    let hash = engine.state_hash().map_err(|error| error.to_string())?;
    fleet.revision = hash.revision;
    fleet.state_hash = hash.to_string();
    fleet.problems = problems(&fleet, lost_after);
    if let Some(what) = engine.disk_trouble() {
        let todo = format!("delete files on {device}, or remove images that are not needed: kith image rm");
        fleet.problems.push(Problem { what, todo });
    }
    Ok(fleet)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn why_voters(members: usize, voters: usize) -> String {
    match (members, voters) {
        (1, _) => "one device: it votes alone".into(),
        (2, 1) => "two devices can not outvote each other, so one votes; a third device makes three voters".into(),
        (_, 1) => "one voter while the others catch up; three vote soon".into(),
        (_, votes) => {
            format!("{votes} of {members} devices vote; the fleet works while {} of them answer", votes / 2 + 1)
        }
    }
}

fn problems(fleet: &FleetStatus, lost_after: Duration) -> Vec<Problem> {
    let mut found = Vec::new();
    if !fleet.quorum {
        found.push(Problem {
            what: "no quorum: reads are from this device's replica, writes fail".into(),
            todo: format!("bring back a majority of the voters: {}", fleet.voters.join(", ")),
        });
    }
    for device in fleet.devices.iter().filter(|_| fleet.quorum) {
        let silent = Duration::from_millis(device.last_heard_ms.unwrap_or(0));
        if !device.ready {
            found.push(Problem {
                what: format!("{} is not ready", device.name),
                todo: format!("kith describe node {}; is it switched on and reachable?", device.name),
            });
        } else if silent > lost_after / WORRY {
            found.push(Problem {
                what: format!("{} has been silent for {} s", device.name, silent.as_secs()),
                todo: format!(
                    "nothing yet: after {} s it counts as lost, and its pods start elsewhere",
                    lost_after.as_secs()
                ),
            });
        }
    }
    found
}

fn objects(engine: &Engine, kind: &str) -> Result<Vec<Value>, String> {
    let listing = engine.list(kind, None).map_err(|error| error.to_string())?;
    Ok(listing.documents.iter().filter_map(|document| serde_json::from_slice(&document.body).ok()).collect())
}

fn ready_nodes(engine: &Engine) -> Result<BTreeMap<String, bool>, String> {
    let nodes = objects(engine, "Node")?;
    Ok(nodes.iter().map(|node| (meta::name(node).to_owned(), is_ready(node))).collect())
}

fn is_ready(node: &Value) -> bool {
    meta::list_at(node, "status.conditions").iter().any(|found| found["type"] == "Ready" && found["status"] == "True")
}

fn pods_by_node(engine: &Engine) -> Result<BTreeMap<String, u32>, String> {
    let mut count = BTreeMap::new();
    for pod in objects(engine, "Pod")? {
        let node = meta::text_at(&pod, "spec.nodeName");
        if !node.is_empty() {
            *count.entry(node.to_owned()).or_default() += 1;
        }
    }
    Ok(count)
}
