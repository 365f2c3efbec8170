//! The private network: a bridge in a namespace of its own, and a cable to each device. There is
//! no link and no route to the host.

use super::fleet::{Device, Fleet, PREFIX};
use crate::cli::failure::Failure;
use crate::cli::wait;
use crate::network::link::Links;
use crate::network::{NetworkError, netns};

/// The bridge in the switch's namespace.
const BRIDGE: &str = "kith0";
/// A device's only link beside `lo`.
const DEVICE_LINK: &str = "eth0";

/// Makes the bridge.
pub(super) fn make(fleet: &Fleet) -> Result<(), Failure> {
    netns::create(&fleet.switch_namespace())?;
    on_switch(fleet, async |links| links.add_bridge(BRIDGE).await)
}

/// Makes a device's namespace and lays its cable.
pub(super) fn connect(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    let namespace = device.namespace();
    netns::create(&namespace)?;
    on_switch(fleet, async |links| links.add_cable(&device.name(), BRIDGE, &namespace, DEVICE_LINK).await)?;
    inside(&namespace, async |links| {
        links.set_up("lo").await?;
        links.add_address(DEVICE_LINK, device.address(), PREFIX).await?;
        links.set_up(DEVICE_LINK).await
    })
}

/// Waits until the cables of these devices carry traffic.
pub(super) fn settle(fleet: &Fleet, devices: &[Device]) -> Result<(), Failure> {
    on_switch(fleet, async |links| {
        for device in devices {
            links.wait_until_it_carries(&device.name()).await?;
        }
        Ok(())
    })
}

/// Cuts a device off: its link stays up, as behind a switch that died, and what it sends vanishes.
pub(super) fn unplug(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    on_switch(fleet, async |links| links.unplug(&device.name()).await)
}

/// Connects a device again.
pub(super) fn plug(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    on_switch(fleet, async |links| links.plug(&device.name(), BRIDGE).await)
}

/// Takes a device's cable away. The kernel would do it with the namespace, but some time later.
pub(super) fn disconnect(fleet: &Fleet, device: &Device) -> Result<(), Failure> {
    on_switch(fleet, async |links| links.remove(&device.name()).await)
}

/// Whether a device is connected.
pub(super) fn is_plugged(fleet: &Fleet, device: &Device) -> Result<bool, Failure> {
    on_switch(fleet, async |links| Ok(links.find(&device.name()).await?.bridge.is_some()))
}

fn on_switch<T: Send>(
    fleet: &Fleet,
    work: impl AsyncFnOnce(Links) -> Result<T, NetworkError> + Send,
) -> Result<T, Failure> {
    inside(&fleet.switch_namespace(), work)
}

fn inside<T: Send>(
    namespace: &str,
    work: impl AsyncFnOnce(Links) -> Result<T, NetworkError> + Send,
) -> Result<T, Failure> {
    netns::within(namespace, || wait(async { Ok(work(Links::open()?).await?) }))
}
