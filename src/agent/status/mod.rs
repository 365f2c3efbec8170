//! `kith status`: the fleet as this device sees it, with what the leader knows of the others. It
//! only looks; what is wrong with it says `diagnosis`.

mod diagnosis;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::enter::way_out;
use super::roll;
pub(crate) use diagnosis::{Silence, problems, why_voters};

use crate::api::fleet::{DeviceRole, DeviceStatus, FleetStatus, Problem};
use crate::consensus::{Engine, EngineStatus, Replica, Verdict};
use crate::resource::meta;

/// How long the leader may take to say what it knows.
const OBSERVE_WITHIN: Duration = Duration::from_secs(1);

/// The fleet at a glance.
pub(crate) async fn fleet_status(
    engine: &Engine,
    fleet: &str,
    device: &str,
    quorum: bool,
    silence: Silence,
) -> Result<FleetStatus, String> {
    let own = engine.status();
    // Without a quorum nobody would answer.
    let seen = if quorum { engine.observe(OBSERVE_WITHIN).await } else { own.clone() };
    let members = engine.members().borrow().clone();
    let name_of = |id: u64| members.get(&id).map_or_else(|| format!("member {id}"), |member| member.name.clone());
    let leads = own.leader == Some(own.member_id);
    let devices = devices(engine, &own, &seen, quorum, silence.lost_after)?;
    let mut voters: Vec<String> = own.voters.keys().map(|id| name_of(*id)).collect();
    voters.sort();
    let mut fleet = FleetStatus {
        fleet: fleet.into(),
        device: device.into(),
        member_id: own.member_id,
        version: crate::upgrade::release::version().into(),
        leader: own.leader.map(name_of),
        term: own.term,
        quorum,
        observer: name_of(seen.member_id),
        voters,
        devices,
        applied: own.applied.unwrap_or(0),
        knowledge_age_ms: if leads { 0 } else { own.contact_age.map_or(0, millis) },
        ..FleetStatus::default()
    };
    fleet.why_voters = why_voters(&fleet, &seen.pilot);
    let hash = engine.state_hash().await.map_err(|error| error.to_string())?;
    fleet.revision = hash.revision;
    fleet.state_hash = hash.to_string();
    fleet.problems = problems(&fleet, silence);
    if let Some(why) = &own.failure {
        let todo = format!("free some space if that is it; then start the agent of {device} again");
        fleet.problems.insert(0, Problem { what: format!("the consensus of {device} has stopped: {why}"), todo });
    }
    fleet.problems.splice(0..0, apart(engine, device));
    fleet.problems.extend(rival(engine));
    fleet.problems.extend(fenced(engine, device)?);
    if let Some(what) = engine.disk_trouble() {
        let todo = format!("delete files on {device}, or remove images that are not needed: kith image rm");
        fleet.problems.push(Problem { what, todo });
    }
    Ok(fleet)
}

/// The members as a leader sees them, or as this device does.
pub(crate) fn members_seen(engine: &Engine, lost_after: Duration) -> Result<Vec<DeviceStatus>, String> {
    let own = engine.status();
    devices(engine, &own, &own, own.leader == Some(own.member_id), lost_after)
}

/// Why this device takes no part, if it does not.
fn apart(engine: &Engine, device: &str) -> Option<Problem> {
    let verdict = engine.verdict().borrow().clone();
    let todo = match &verdict {
        Verdict::Clear => return None,
        Verdict::Fenced { .. } => way_out(device),
        Verdict::Unproven { .. } => {
            "nothing, while a leader can be reached; if the others are gone for good: kith recover".into()
        }
        _ => "nothing: it begins again as a new member as soon as it reaches the fleet".into(),
    };
    Some(Problem { what: format!("{device} takes no part: {}", verdict.why()), todo })
}

/// Another recovery of the same fleet, if one was met.
fn rival(engine: &Engine) -> Option<Problem> {
    let number = engine.stamp().epoch;
    engine.has_rival().then(|| Problem {
        what: format!(
            "two devices recovered this fleet separately, both as epoch {number}: they do not hear each other"
        ),
        todo: "choose one of the two; on the devices of the other: kith leave --force, then kith join".into(),
    })
}

/// The devices that nobody hears, because two copies of them were seen.
fn fenced(engine: &Engine, device: &str) -> Result<Vec<Problem>, String> {
    let said = *engine.verdict().borrow() != Verdict::Clear;
    let everyone = roll::everyone(engine)?.into_values().map(|(known, _)| known);
    let fenced = everyone.filter(|known| known.name != device || !said).filter_map(|known| {
        let what = format!("{} is fenced: {}", known.name, known.fenced?);
        Some(Problem { what, todo: way_out(&known.name) })
    });
    Ok(fenced.collect())
}

fn devices(
    engine: &Engine,
    own: &EngineStatus,
    seen: &EngineStatus,
    quorum: bool,
    lost_after: Duration,
) -> Result<Vec<DeviceStatus>, String> {
    let members = engine.members().borrow().clone();
    let nodes: BTreeMap<String, Value> =
        objects(engine, "Node")?.into_iter().map(|node| (meta::name(&node).to_owned(), node)).collect();
    let pods = pods_by_node(engine)?;
    let heard = if quorum { &seen.last_heard } else { &own.heard };
    let found = members.iter().map(|(id, member)| {
        let node = nodes.get(&member.name);
        let silence = if *id == seen.member_id { Some(Duration::ZERO) } else { heard.get(id).copied() };
        // A witness is no node: it is ready while it is heard.
        let here = silence.is_some_and(|silence| silence <= lost_after);
        DeviceStatus {
            name: member.name.clone(),
            member_id: *id,
            role: match () {
                () if own.leader == Some(*id) => DeviceRole::Leader,
                () if own.voters.contains_key(id) => DeviceRole::Voter,
                () if own.mirrors.contains_key(id) => DeviceRole::Mirror,
                () => DeviceRole::Learner,
            },
            ready: if member.witness { here } else { node.is_some_and(is_ready) },
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
            lag: seen.lag.get(id).copied(),
            lag_ms: seen.lag_age.get(id).map(|age| millis(*age)),
            last_heard_ms: heard.get(id).map(|silent| millis(*silent)),
            pods: pods.get(&member.name).copied().unwrap_or(0),
            preference: member.voter,
            no_vote: seen.bench.get(id).cloned().unwrap_or_default(),
            zone: member.zone.clone(),
            witness: member.witness,
            cordoned: node.is_some_and(|node| meta::at(node, "spec.unschedulable") == Some(&Value::Bool(true))),
        }
    });
    let mut found: Vec<DeviceStatus> = found.collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn objects(engine: &Engine, kind: &str) -> Result<Vec<Value>, String> {
    let listing = engine.list(kind, None).map_err(|error| error.to_string())?;
    Ok(listing.documents.iter().filter_map(|document| serde_json::from_slice(&document.body).ok()).collect())
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
