//! `kith dev`: a whole fleet on this one machine. Each device is a folder, a network namespace and
//! a real agent in it; the namespaces are joined by a bridge in a namespace of its own, so nothing
//! of it touches the host's network.

mod agents;
mod fleet;
mod hierarchy;
mod inside;
mod mounts;
mod switch;
mod teardown;
mod up;
mod view;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::image::{self, ImageCommand};
use super::output::{Format, say};
use super::{Session, parse_span, wait};
use fleet::{Device, Fleet};

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Name of the fleet: several may exist next to each other
    #[arg(long, global = true, default_value = "dev", value_name = "NAME")]
    fleet: String,
    /// Folder of the fleet [default: /var/lib/kith-dev/<fleet>]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Make a fleet and wait until it is ready
    Up(UpArgs),
    /// Show the devices: agent, cable, and what each sees of the fleet
    Status(StatusArgs),
    /// Run a command inside a device, as if logged in there
    Exec(ExecArgs),
    /// Pull a device's cable: it is up, and reaches nobody
    Cut(OneDevice),
    /// Put a device's cable back
    Heal(OneDevice),
    /// Kill a device's agent with -9; its containers go on
    Kill(KillArgs),
    /// Start a device's agent again
    Start(OneDevice),
    /// Join one more device
    Add(AddArgs),
    /// Load an image archive on every device
    Load(LoadArgs),
    /// Work on the images of every device
    #[command(subcommand)]
    Image(ImageCommand),
    /// End the fleet and leave nothing behind
    Down,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// How many devices
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(fleet::DEVICE_LIMIT)))]
    devices: u32,
    #[command(flatten)]
    patience: Patience,
    /// A setting of every agent: lost_after_seconds=3; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Clone, Debug, Args)]
struct Patience {
    /// How long the devices may take to become ready
    #[arg(long, value_parser = parse_span, default_value = "1m", value_name = "SPAN")]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Args)]
struct OneDevice {
    /// The device: d1
    #[arg(value_name = "DEVICE")]
    device: String,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// The device: d1
    #[arg(value_name = "DEVICE")]
    device: String,
    /// What to run, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct KillArgs {
    /// The device: d1
    #[arg(value_name = "DEVICE")]
    device: String,
    /// The whole device, as a power cut would: its containers and its run folder too
    #[arg(long)]
    power: bool,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// As a witness: it votes and runs nothing
    #[arg(long)]
    witness: bool,
    #[command(flatten)]
    patience: Patience,
    /// A setting of its agent: name=value as in agent.toml; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// An OCI layout or a docker archive, as a tar file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn run(args: DevArgs, session: &Session) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::failed("kith dev makes network namespaces and cgroups, and needs root for it")
            .hint("sudo kith dev ..."));
    }
    let fleet = Fleet::new(args.fleet, args.dir)?;
    match args.command {
        DevCommand::Up(up) => up::up(&fleet, up.devices, &up.settings, up.patience.timeout, session),
        DevCommand::Status(status) => view::show(&fleet, status.output),
        DevCommand::Exec(exec) => Err(inside::become_command(&fleet.device(&exec.device)?, &exec.command)),
        DevCommand::Cut(one) => {
            let device = fleet.device(&one.device)?;
            switch::unplug(&fleet, &device)?;
            say!("{} is cut off", device.name())
        }
        DevCommand::Heal(one) => {
            let device = fleet.device(&one.device)?;
            switch::plug(&fleet, &device)?;
            say!("{} is connected", device.name())
        }
        DevCommand::Kill(kill) => {
            let device = fleet.device(&kill.device)?;
            if kill.power { teardown::cut_power(&fleet, &device) } else { kill_agent(&device) }
        }
        DevCommand::Start(one) => start(&fleet.device(&one.device)?),
        DevCommand::Add(add) => up::add(&fleet, add.witness, &add.settings, add.patience.timeout),
        DevCommand::Load(load) => image::run_on_all(&ImageCommand::load(load.file), &configs(&fleet)?),
        DevCommand::Image(command) => image::run_on_all(&command, &configs(&fleet)?),
        DevCommand::Down => teardown::down(&fleet),
    }
}

fn kill_agent(device: &Device) -> Result<(), Failure> {
    match agents::kill(device)? {
        Some(pid) => say!("killed the agent of {} (pid {pid})", device.name()),
        None => say!("the agent of {} does not run", device.name()),
    }
}

fn start(device: &Device) -> Result<(), Failure> {
    if let Some(pid) = agents::running(device) {
        return say!("the agent of {} runs already (pid {pid})", device.name());
    }
    let pid = agents::start(device)?;
    wait(up::answers(device))?;
    say!("started the agent of {} (pid {pid})", device.name())
}

fn configs(fleet: &Fleet) -> Result<Vec<(String, crate::config::Config)>, Failure> {
    let devices = fleet.opened()?.devices();
    devices.iter().map(|device| Ok((device.name(), device.config()?))).collect()
}

#[cfg(test)]
mod tests;
