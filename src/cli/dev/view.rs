//! `kith dev status`: each device from outside (agent, cable) and from inside (what it sees).

use serde::Serialize;

use super::fleet::Fleet;
use super::{agents, switch};
use crate::api::fleet::{self, FleetStatus};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Format, Paint, Table, say};
use crate::cli::wait;

/// The fleet as JSON and YAML show it.
#[derive(Debug, Serialize)]
struct View {
    fleet: String,
    dir: String,
    devices: Vec<DeviceView>,
}

#[derive(Debug, Serialize)]
struct DeviceView {
    name: String,
    address: String,
    namespace: String,
    /// The agent's pid; absent when it does not run.
    pid: Option<i32>,
    connected: bool,
    /// What its agent says; absent when it does not answer.
    sees: Option<FleetStatus>,
}

pub(super) fn show(fleet: &Fleet, format: Option<Format>) -> Result<(), Failure> {
    let view = look(fleet.opened()?);
    match format {
        Some(Format::Json) => output::json(&view),
        Some(Format::Yaml) => output::yaml(&view),
        Some(Format::Name) => view.devices.iter().try_for_each(|device| say!("{}", device.name)),
        None | Some(Format::Wide) => output::raw(render(&view, Paint::stdout()).as_bytes()),
    }
}

fn look(fleet: &Fleet) -> View {
    let mut devices = Vec::new();
    for device in fleet.devices() {
        let pid = agents::running(&device);
        let sees = match pid {
            Some(_) => wait(Client::new(device.socket(), false).get(fleet::STATUS)).ok(),
            None => None,
        };
        devices.push(DeviceView {
            name: device.name(),
            address: device.address().to_string(),
            namespace: device.namespace(),
            pid,
            // A device that is half made has no cable.
            connected: switch::is_plugged(fleet, &device).unwrap_or(false),
            sees,
        });
    }
    View { fleet: fleet.name.clone(), dir: fleet.dir.display().to_string(), devices }
}

fn render(view: &View, paint: Paint) -> String {
    let mut table = Table::new(["DEVICE", "ADDRESS", "AGENT", "CABLE", "SEES LEADER", "QUORUM", "REVISION", "HASH"]);
    for device in &view.devices {
        let agent = device.pid.map_or_else(|| paint.red("dead"), |pid| format!("pid {pid}"));
        let cable = if device.connected { "connected".to_owned() } else { paint.yellow("cut") };
        let seen = device.sees.as_ref().map_or_else(
            || ["-", "-", "-", "-"].map(str::to_owned),
            |sees| {
                let leader = sees.leader.clone().unwrap_or_else(|| paint.red("none"));
                let quorum = if sees.quorum { "yes".to_owned() } else { paint.red("no") };
                let hash = sees.state_hash.get(..12).unwrap_or(&sees.state_hash);
                [leader, quorum, sees.revision.to_string(), hash.to_owned()]
            },
        );
        table.row([device.name.clone(), device.address.clone(), agent, cable].into_iter().chain(seen));
    }
    format!("Fleet {} in {}\n\n{}", paint.bold(&view.fleet), view.dir, table.render())
}
