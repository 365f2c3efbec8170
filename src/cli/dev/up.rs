//! Making a fleet: network, folders, a first device, and others that join it with its token.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fleet::{Device, Fleet, Steps};
use super::{agents, inside, switch, teardown};
use crate::api::fleet::{self, FleetStatus, TokenAsk, TokenMade, TokenRole};
use crate::cli::client::Client;
use crate::cli::failure::{Code, Doing, Failure};
use crate::cli::{Session, init, wait};
use crate::config::Config;
use crate::network::netns;

/// Pause between looks at devices that are getting ready.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an agent may take to answer on its socket.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the first token works: longer than a fleet takes to come up.
const TOKEN_TTL: Duration = Duration::from_mins(15);

/// Makes a fleet of `count` devices and waits until it is ready.
pub(super) fn up(
    fleet: &Fleet,
    count: u32,
    settings: &[String],
    patience: Duration,
    _session: &Session,
) -> Result<(), Failure> {
    let steps = Steps::begin();
    fleet.claim()?;
    make(fleet, count, settings, patience, &steps).map_err(|failure| {
        let hint = failure.hint.clone().map(|hint| format!("{hint}; ")).unwrap_or_default();
        failure.hint(format!("{hint}kith dev down --fleet {} removes what was made", fleet.name))
    })
}

fn make(fleet: &Fleet, count: u32, settings: &[String], patience: Duration, steps: &Steps) -> Result<(), Failure> {
    let devices: Vec<_> = (1..=count).map(|number| fleet.numbered(number)).collect();
    switch::make(fleet)?;
    for device in &devices {
        device.make(settings)?;
        switch::connect(fleet, device)?;
    }
    steps.done(&format!("{} on a private bridge", crate::cli::output::count(devices.len(), "network namespace")))?;
    let [first, others @ ..] = &devices[..] else { return Err(Failure::usage("a fleet has at least one device")) };
    let token = found(first, &first.config()?, others.len())?;
    agents::start(first)?;
    wait(answers(first))?;
    steps.done(&format!("{} founded the fleet", first.name()))?;
    switch::settle(fleet, &devices)?;
    for device in others {
        join(device, &token, false)?;
        agents::start(device)?;
        steps.done(&format!("{} joined", device.name()))?;
    }
    let status = wait(all_ready(&devices, patience))?;
    steps.done(&ready_line(&status))
}

fn found(device: &Device, config: &Config, others: usize) -> Result<String, Failure> {
    let address = SocketAddr::new(device.address(), config.peer_listen.port());
    let uses = u32::try_from(others.max(1)).unwrap_or(u32::MAX);
    Ok(init::found(config, &device.name(), vec![address], TOKEN_TTL, uses)?.to_string())
}

/// Joins one more device to a fleet that runs.
pub(super) fn add(fleet: &Fleet, witness: bool, settings: &[String], patience: Duration) -> Result<(), Failure> {
    let steps = Steps::begin();
    let mut devices = fleet.opened()?.devices();
    let number = devices.last().map_or(1, |last| last.number + 1);
    if number > super::fleet::DEVICE_LIMIT {
        return Err(Failure::usage(format!("a fleet has at most {} devices", super::fleet::DEVICE_LIMIT)));
    }
    let token = wait(token(&devices, witness))?;
    let device = fleet.numbered(number);
    let joined = device.make(settings).and_then(|()| switch::connect(fleet, &device));
    let joined = joined
        .and_then(|()| switch::settle(fleet, std::slice::from_ref(&device)))
        .and_then(|()| join(&device, &token, witness));
    if let Err(failure) = joined {
        // A device that is not of the fleet would only be in the way of the next attempt.
        teardown::discard(fleet, &device)?;
        return Err(failure);
    }
    agents::start(&device)?;
    steps.done(&format!("{} joined", device.name()))?;
    devices.retain(|known| agents::running(known).is_some());
    devices.push(device);
    let status = wait(all_ready(&devices, patience))?;
    steps.done(&ready_line(&status))
}

/// A token from whichever device answers.
async fn token(devices: &[Device], witness: bool) -> Result<String, Failure> {
    let mut last = Failure::new(Code::Unreachable, "no device of the fleet runs").hint("kith dev start DEVICE");
    for device in devices.iter().filter(|device| agents::running(device).is_some()) {
        let role = if witness { TokenRole::Witness } else { TokenRole::Device };
        let ask = TokenAsk { ttl_seconds: TOKEN_TTL.as_secs(), uses: 1, role };
        match Client::new(device.socket(), false).post::<TokenMade>(fleet::TOKENS, &ask).await {
            Ok(made) => return Ok(made.token),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Runs `kith join` inside the device, as its user would.
fn join(device: &Device, token: &str, witness: bool) -> Result<(), Failure> {
    let step = || format!("join {}", device.name());
    let program = std::env::current_exe().doing(|| "find this program".into())?;
    let mut words = vec![program.as_os_str(), "join".as_ref(), token.as_ref()];
    words.extend(witness.then(|| std::ffi::OsStr::new("--witness")));
    let mut command = inside::command(device, &words);
    let output = netns::within(&device.namespace(), || command.output().doing(step))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut failure = Failure::failed(step());
    for line in said.lines() {
        match line.strip_prefix("hint: ") {
            Some(hint) => failure.hint = Some(hint.to_owned()),
            None => failure.chain.push(line.trim_start_matches("error: ").trim().to_owned()),
        }
    }
    Err(failure)
}

/// Waits until a device's agent answers on its socket.
pub(super) async fn answers(device: &Device) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match Client::new(device.socket(), false).get::<FleetStatus>(fleet::STATUS).await {
            Ok(_) => return Ok(()),
            Err(_) if agents::running(device).is_none() => return Err(agents::died(device)),
            Err(failure) if begun.elapsed() > ANSWER_TIMEOUT => {
                return Err(failure.during(format!("wait {ANSWER_TIMEOUT:?} for the agent of {}", device.name())));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits until every device sees a leader and all devices ready, and three vote where three can.
async fn all_ready(devices: &[Device], patience: Duration) -> Result<FleetStatus, Failure> {
    let begun = Instant::now();
    loop {
        let mut missing = None;
        let mut last = FleetStatus::default();
        for device in devices {
            if agents::running(device).is_none() {
                return Err(agents::died(device));
            }
            match Client::new(device.socket(), false).get::<FleetStatus>(fleet::STATUS).await {
                Ok(status) => {
                    missing =
                        missing.or_else(|| unready(&status, devices).map(|why| format!("{}: {why}", device.name())));
                    last = status;
                }
                Err(failure) => missing = Some(format!("{}: {}", device.name(), failure.chain.join(": "))),
            }
        }
        let Some(missing) = missing else { return Ok(last) };
        if begun.elapsed() > patience {
            let logs = devices.iter().map(|d| agents::log_file(d).display().to_string()).collect::<Vec<_>>();
            return Err(Failure::failed(format!("not all devices were ready within {patience:?}: {missing}"))
                .hint(format!("the agents' logs: {}", logs.join(" "))));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a device still misses before the fleet counts as ready.
fn unready(status: &FleetStatus, devices: &[Device]) -> Option<String> {
    if status.leader.is_none() || !status.quorum {
        return Some("no leader with a quorum yet".into());
    }
    for device in devices {
        let name = device.name();
        if !status.devices.iter().any(|known| known.name == name && known.ready) {
            return Some(format!("{name} is not Ready yet"));
        }
    }
    let wanted = if devices.len() < 3 { 1 } else { 3 };
    (status.voters.len() < wanted).then(|| format!("{} of {wanted} devices vote so far", status.voters.len()))
}

fn ready_line(status: &FleetStatus) -> String {
    let leader = status.leader.as_deref().unwrap_or("nobody");
    format!(
        "all ready: {leader} leads, {} vote{}",
        status.voters.join(", "),
        if status.voters.len() == 1 { "s" } else { "" }
    )
}
