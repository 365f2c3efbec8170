//! What this device knows of itself from one moment to the next, shared by its tasks: devices that are
//! plugged in, shortages, and pods that have to go because of them.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::reconciler::devices::HostDevice;

/// It moves only when something changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Local {
    /// Devices that pods may ask for.
    pub(crate) devices: Vec<HostDevice>,
    /// Too little memory.
    pub(crate) memory_pressure: bool,
    /// Too little disk.
    pub(crate) disk_pressure: bool,
    /// Pods that have to go, by uid, and why.
    pub(crate) evicted: BTreeMap<String, String>,
}

/// Changes what is known, and wakes those who look only if something did change.
pub(crate) fn change(local: &watch::Sender<Local>, act: impl FnOnce(&mut Local)) {
    local.send_if_modified(|known| {
        let before = known.clone();
        act(known);
        *known != before
    });
}
