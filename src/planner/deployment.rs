//! Deployment: one ReplicaSet for each template, and a gradual move from the old ones to the
//! newest. It writes ReplicaSets and its own status, never pods.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest, Sha256};

use super::draft::{Draft, Step, canonical};
use super::fleet::{REPLICA_SET, Versioned};
use super::replica_set::{self, Census, count};
use super::rollout::{self, Share, Strategy};
use super::view::{Standing, View};
use super::{Reason, device, pods};
use crate::resource::occurrence::{Occurrence, derived_uid, reference_to};
use crate::resource::{Timestamp, names};
use crate::store::Key;

/// Label that tells the pods of one template from those of another.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";
/// Annotation that numbers the templates of a Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Old ReplicaSets that are kept when the Deployment does not say.
const DEFAULT_HISTORY: usize = 10;
/// Seconds without progress after which a rollout counts as failed, when the Deployment does not say.
const DEFAULT_DEADLINE: i32 = 600;

/// A Deployment with its ReplicaSets sorted out.
struct Case<'a> {
    key: &'a Key,
    deployment: &'a Versioned<Deployment>,
    spec: &'a DeploymentSpec,
    wanted: usize,
    strategy: Strategy,
    new: Option<Member<'a>>,
    /// By template number, oldest first.
    old: Vec<Member<'a>>,
}

#[derive(Clone, Copy)]
struct Member<'a> {
    key: &'a Key,
    set: &'a Versioned<ReplicaSet>,
    census: Census,
}

impl Member<'_> {
    fn share(&self) -> Share {
        Share { wanted: replica_set::replicas(&self.set.object), available: self.census.available }
    }

    fn number(&self) -> u64 {
        number(&self.set.object.metadata)
    }
}

fn number(meta: &ObjectMeta) -> u64 {
    meta.annotations.as_ref().and_then(|all| all.get(REVISION)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    for (key, deployment) in &view.fleet.deployments {
        if deployment.object.metadata.deletion_timestamp.is_some() || view.is_ending(&key.namespace) {
            continue;
        }
        let Some(case) = Case::of(view, draft, key, deployment) else { continue };
        let paused = case.spec.paused == Some(true);
        match case.new {
            None if paused => draft.note(key, Reason::Paused, "it is paused: its new template is not rolled out"),
            None => case.make_set(view, draft),
            Some(new) => {
                case.renumber(draft, new);
                if paused {
                    draft.note(
                        key,
                        Reason::Paused,
                        "it is paused: its ReplicaSets are left as they are, but for its size",
                    );
                    case.resize(view, draft, new);
                } else {
                    case.roll(view, draft, new);
                    case.forget_history(draft, new);
                }
            }
        }
        case.report(view, draft);
    }
}

impl<'a> Case<'a> {
    fn of(view: &View<'a>, draft: &mut Draft, key: &'a Key, deployment: &'a Versioned<Deployment>) -> Option<Self> {
        let spec = deployment.object.spec.as_ref()?;
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let mut members: Vec<Member<'a>> = Vec::new();
        for (key, set) in view.sets_of(&deployment.object.metadata) {
            if set.object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let (census, next) = replica_set::census(view, &set.object);
            if let Some(at) = next {
                draft.wake(at);
            }
            members.push(Member { key, set, census });
        }
        members.sort_by_key(|member| (member.number(), member.key));
        let new = members.iter().rposition(|member| same_template(&member.set.object, &spec.template));
        let new = new.map(|index| members.remove(index));
        Some(Self { key, deployment, spec, wanted, strategy: Strategy::of(spec, wanted), new, old: members })
    }

    fn latest_number(&self) -> u64 {
        self.old.iter().map(Member::number).max().unwrap_or(0)
    }

    /// Makes the ReplicaSet of a template that has none yet.
    fn make_set(&self, view: &View<'_>, draft: &mut Draft) {
        let hash = template_hash(&self.spec.template);
        let name = names::generated(&self.key.name, &format!("-{hash}"));
        let key = Key::new(REPLICA_SET, &self.key.namespace, &name);
        if view.fleet.replica_sets.contains_key(&key) || view.fleet.unreadable.contains(&key) {
            draft.note(
                self.key,
                Reason::NameTaken,
                format!("ReplicaSet {name} exists already, but is not of this Deployment"),
            );
            return;
        }
        let old: Vec<Share> = self.old.iter().map(Member::share).collect();
        let (size, _) = rollout::next(self.strategy, self.wanted, Share::default(), &old, self.old_pods(view));
        let Some(set) = self.new_set(view, &name, &hash, size) else { return };
        let step = Step::default()
            .require(self.key, self.deployment.revision)
            .create(&key, &set)
            .event(view, &self.scaled(&name, "up", 0, size));
        draft.push(self.key, format!("its template has no ReplicaSet yet: makes {name} for {size} pods"), step);
    }

    fn new_set(&self, view: &View<'_>, name: &str, hash: &str, size: usize) -> Option<ReplicaSet> {
        let meta = &self.deployment.object.metadata;
        let number = self.latest_number().saturating_add(1).to_string();
        let uid = derived_uid(&["replicaset", meta.uid.as_deref()?, name, &view.now.0.to_string(), &number]);
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(TEMPLATE_HASH.into(), hash.into());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.into());
        let mut annotations = meta.annotations.clone().unwrap_or_default();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.insert(REVISION.into(), number);
        annotations.insert("deployment.kubernetes.io/desired-replicas".into(), self.wanted.to_string());
        let owner = OwnerReference {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        Some(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: meta.namespace.clone(),
                uid: Some(uid),
                creation_timestamp: Some(view.now.to_kubernetes()),
                generation: Some(1),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(count(size)),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        })
    }

    /// Pods of old templates that run or are ending; those on lost devices are not waited for.
    fn old_pods(&self, view: &View<'_>) -> usize {
        let waited_for = |pod: &k8s_openapi::api::core::v1::Pod| {
            let lost = pods::node_of(pod).is_some_and(|node| matches!(view.standing(node), Standing::Lost(_)))
                && view.may_run_for(pod).is_none_or(|left| left.is_zero());
            !(pods::is_finished(pod) || lost && pods::is_terminating(pod))
        };
        self.old
            .iter()
            .map(|member| {
                view.pods_of(&member.set.object.metadata).iter().filter(|(_, pod)| waited_for(&pod.object)).count()
            })
            .sum()
    }

    /// Gives the newest template the highest number, also when it was in use before.
    fn renumber(&self, draft: &mut Draft, new: Member<'_>) {
        let latest = self.latest_number();
        if new.number() > latest {
            return;
        }
        let mut changed = new.set.object.clone();
        changed.metadata.annotations.get_or_insert_default().insert(REVISION.into(), (latest + 1).to_string());
        let step =
            Step::default().require(self.key, self.deployment.revision).replace(new.key, new.set.revision, &changed);
        draft.push(self.key, format!("{} is its newest template again", new.key.name), step);
    }

    /// The next step of a rollout, or of a change of size.
    fn roll(&self, view: &View<'_>, draft: &mut Draft, new: Member<'_>) {
        let old: Vec<Share> = self.old.iter().map(Member::share).collect();
        let (size, sizes) = rollout::next(self.strategy, self.wanted, new.share(), &old, self.old_pods(view));
        let mut acted = self.scale(view, draft, new, size);
        for (member, size) in self.old.iter().zip(sizes) {
            acted |= self.scale(view, draft, *member, size);
        }
        let left: usize = old.iter().map(|share| share.wanted).sum();
        if !acted && (left > 0 || size < self.wanted) {
            let text = format!(
                "rollout: {} of {} new pods are available, {left} old ones remain; {:?}",
                new.census.available, self.wanted, self.strategy
            );
            draft.note(self.key, Reason::Rollout, text);
        }
    }

    /// While it is paused only a change of its size is followed, by the newest ReplicaSet that is in use.
    fn resize(&self, view: &View<'_>, draft: &mut Draft, new: Member<'_>) {
        let mut in_use = self.old.iter().chain(std::iter::once(&new)).filter(|member| member.share().wanted > 0);
        match (in_use.next(), in_use.next()) {
            (Some(only), None) => drop(self.scale(view, draft, *only, self.wanted)),
            (None, _) => drop(self.scale(view, draft, new, self.wanted)),
            (Some(_), Some(_)) => {}
        }
    }

    fn scale(&self, view: &View<'_>, draft: &mut Draft, member: Member<'_>, size: usize) -> bool {
        let from = member.share().wanted;
        if size == from || draft.writes(member.key) {
            return size != from;
        }
        let mut changed = member.set.object.clone();
        let Some(spec) = changed.spec.as_mut() else { return false };
        spec.replicas = Some(count(size));
        changed.metadata.generation = Some(changed.metadata.generation.unwrap_or(0) + 1);
        let direction = if size > from { "up" } else { "down" };
        let step = Step::default()
            .require(self.key, self.deployment.revision)
            .replace(member.key, member.set.revision, &changed)
            .event(view, &self.scaled(&member.key.name, direction, from, size));
        draft.push(self.key, format!("scales {} {direction} from {from} to {size}", member.key.name), step)
    }

    fn scaled(&self, set: &str, direction: &str, from: usize, to: usize) -> Occurrence {
        Occurrence {
            involved: reference_to(&self.deployment.object),
            warning: false,
            reason: "ScalingReplicaSet",
            message: format!("Scaled {direction} replica set {set} from {from} to {to}"),
            component: device::COMPONENT,
            host: String::new(),
        }
    }

    /// Removes old ReplicaSets beyond those that are kept for going back.
    fn forget_history(&self, draft: &mut Draft, new: Member<'_>) {
        let limit =
            self.spec.revision_history_limit.map_or(DEFAULT_HISTORY, |limit| usize::try_from(limit).unwrap_or(0));
        if new.census.available < self.wanted {
            return;
        }
        let idle: Vec<&Member<'_>> =
            self.old.iter().filter(|member| member.share().wanted == 0 && member.census.active == 0).collect();
        for member in idle.iter().take(idle.len().saturating_sub(limit)) {
            let step =
                Step::default().require(self.key, self.deployment.revision).remove(member.key, member.set.revision);
            draft.push(self.key, format!("forgets {}: it keeps {limit} old ReplicaSets", member.key.name), step);
        }
    }

    /// Writes its status when it changed.
    fn report(&self, view: &View<'_>, draft: &mut Draft) {
        let stored = self.deployment.object.status.clone().unwrap_or_default();
        let all = self.old.iter().chain(&self.new);
        let mut sum = Census::default();
        let mut asked = 0;
        for member in all {
            sum.active += member.census.active;
            sum.ready += member.census.ready;
            sum.available += member.census.available;
            asked += member.share().wanted;
        }
        let mut status = DeploymentStatus {
            replicas: Some(count(sum.active)),
            ready_replicas: Some(count(sum.ready)),
            available_replicas: Some(count(sum.available)),
            unavailable_replicas: Some(count(asked.saturating_sub(sum.available))),
            updated_replicas: Some(count(self.new.map_or(0, |new| new.census.active))),
            observed_generation: self.deployment.object.metadata.generation,
            ..stored.clone()
        };
        let available = self.availability(sum.available);
        let progress = self.progress(view, draft, &stored, &status);
        let conditions = [Some(available), progress].into_iter().flatten();
        status.conditions = Some(conditions.map(|condition| settle(&stored, condition, view.now)).collect());
        let mut changed = self.deployment.object.clone();
        changed.status = Some(status);
        if let Some(new) = self.new {
            let number = new.number().to_string();
            changed.metadata.annotations.get_or_insert_default().insert(REVISION.into(), number);
        }
        if changed != self.deployment.object {
            draft.push(
                self.key,
                "its status changed",
                Step::default().replace(self.key, self.deployment.revision, &changed),
            );
        }
    }

    fn availability(&self, available: usize) -> DeploymentCondition {
        let enough = available >= self.strategy.floor(self.wanted);
        let (status, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        condition("Available", status, reason, message.into())
    }

    /// How the rollout goes: on with each change for the better, done when all pods are new and available,
    /// failed when nothing got better for the deadline.
    fn progress(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        stored: &DeploymentStatus,
        status: &DeploymentStatus,
    ) -> Option<DeploymentCondition> {
        let told = stored.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
        let Some(new) = self.new else { return told.cloned() };
        let set = &new.key.name;
        let full = Some(count(self.wanted));
        if status.updated_replicas == full && status.replicas == full && status.available_replicas == full {
            let text = format!("ReplicaSet \"{set}\" has successfully progressed.");
            return Some(condition("Progressing", "True", "NewReplicaSetAvailable", text));
        }
        let Some(told) = told else {
            return Some(condition(
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set \"{set}\""),
            ));
        };
        let done = told.reason.as_deref() == Some("NewReplicaSetAvailable");
        if done && told.message.as_deref().is_some_and(|text| text.contains(&format!("\"{set}\""))) {
            return Some(told.clone());
        }
        let better = status.updated_replicas > stored.updated_replicas
            || status.ready_replicas > stored.ready_replicas
            || status.available_replicas > stored.available_replicas
            || (status.replicas < stored.replicas && status.updated_replicas >= stored.updated_replicas);
        if better || done {
            let text = format!("ReplicaSet \"{set}\" is progressing.");
            let mut progress = condition("Progressing", "True", "ReplicaSetUpdated", text);
            progress.last_update_time = Some(view.now.to_kubernetes());
            return Some(progress);
        }
        let seconds = self.spec.progress_deadline_seconds.unwrap_or(DEFAULT_DEADLINE).max(0);
        let since = told.last_update_time.as_ref().map_or(view.now, Timestamp::from);
        let deadline = since.plus(Duration::from_secs(u64::from(seconds.unsigned_abs())));
        if self.spec.paused == Some(true) || told.status == "False" || seconds == i32::MAX {
            return Some(told.clone());
        }
        if view.now >= deadline {
            let text = format!("ReplicaSet \"{set}\" has timed out progressing.");
            return Some(condition("Progressing", "False", "ProgressDeadlineExceeded", text));
        }
        draft.wake(deadline);
        Some(told.clone())
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..DeploymentCondition::default()
    }
}

/// Gives a condition its times: those that are stored while it says the same.
fn settle(stored: &DeploymentStatus, new: DeploymentCondition, now: Timestamp) -> DeploymentCondition {
    let told = stored.conditions.iter().flatten().find(|condition| condition.type_ == new.type_);
    let same =
        told.is_some_and(|told| told.status == new.status && told.reason == new.reason && told.message == new.message);
    let transition = told.filter(|told| told.status == new.status).and_then(|told| told.last_transition_time.clone());
    let kept = told.filter(|_| same).and_then(|told| told.last_update_time.clone());
    let update = new.last_update_time.clone().or(kept);
    DeploymentCondition {
        last_update_time: update.or_else(|| Some(now.to_kubernetes())),
        last_transition_time: transition.or_else(|| Some(now.to_kubernetes())),
        ..new
    }
}

/// Whether a ReplicaSet is of this template: its own label does not count.
fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    if own.spec != template.spec {
        return false;
    }
    let strip = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        let labels = meta.labels.get_or_insert_default();
        labels.remove(TEMPLATE_HASH);
        meta
    };
    strip(own) == strip(template)
}

/// Ten characters that tell templates apart; no vowels: no words.
pub(super) fn template_hash(template: &PodTemplateSpec) -> String {
    let digest = Sha256::digest(canonical(template).unwrap_or_default());
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    format!("{}{}", names::suffix(number(&digest[..8])), names::suffix(number(&digest[8..16])))
}
