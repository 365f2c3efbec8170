//! A pod's sandbox in its life: made before its first container, removed after its last.

use super::container::{ContainerState, Namespaces};
use super::lifecycle::Case;
use super::sandbox::{ReadySandbox, SandboxState, sandbox_spec};
use super::{Action, Decision};

impl<'a> Case<'a> {
    /// The sandbox that a container can be started in; while there is none, why not, and what is done
    /// about it is decided.
    pub(super) fn shelter(&self, decision: &mut Decision) -> Result<&'a ReadySandbox, String> {
        let mut known = String::new();
        match self.sandbox.map(|sandbox| &sandbox.state) {
            Some(SandboxState::Ready(ready)) => return Ok(ready),
            Some(SandboxState::Failed { at, reason }) => {
                known.clone_from(reason);
                let again = at.plus(self.target.settings.sandbox_retry);
                // A moment ahead of now means that the clock was set back.
                if *at <= self.now && again > self.now {
                    decision.wake(again);
                    return Err(known);
                }
            }
            None => {}
        }
        if decision.makes_sandbox_of(&self.reference) {
            return Err(known);
        }
        match sandbox_spec(&self.reference, &self.pod.pod, &self.target.node) {
            Ok(mut spec) => {
                spec.users = self.own_users().ok().flatten();
                let complaint = self.occurrence(None, true, "FailedCreatePodSandBox", String::new());
                decision.push(Action::MakeSandbox { spec: Box::new(spec), complaint: Box::new(complaint) });
                // One that leaves no trace is tried again.
                decision.wake(self.now.plus(self.target.settings.sandbox_retry));
                Err(known)
            }
            Err(reason) => Err(reason),
        }
    }

    /// Removes the sandbox once no container needs it. Returns whether there is none any more.
    pub(super) fn unshelter(&self, decision: &mut Decision) -> bool {
        if self.sandbox.is_none_or(|sandbox| sandbox.ready().is_none()) {
            return true;
        }
        if self.own.iter().all(|container| matches!(container.state, ContainerState::Exited(_))) {
            decision.push(Action::RemoveSandbox(self.reference.clone()));
        }
        false
    }
}

impl ReadySandbox {
    /// The namespaces of a container that shares this sandbox; its processes and users are its own.
    pub(super) fn namespaces(&self) -> Namespaces {
        Namespaces {
            network: self.network.clone(),
            ipc: self.ipc.clone(),
            uts: self.uts.clone(),
            user_at: self.users.clone(),
            ..Namespaces::default()
        }
    }
}
