//! `kith upgrade`: another release takes over on this device, or on the whole fleet in waves. It hands
//! the files to the agent, which judges them; then it waits for what comes of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::client::Client;
use super::failure::{Code, Failure};
use super::output::{self, Format, Table, note, say};
use super::{Session, parse_span};
use crate::api::fleet::{
    ROLLOUT, ROLLOUT_STEER, RolloutAsk, RolloutSteer, RolloutView, UPGRADE, UpgradeAsk, UpgradeBegun, UpgradeView,
};
use crate::config::Config;
use crate::upgrade::{UpgradeError, incoming, release, signature};

/// Pause between looks at what comes of it.
const LOOK: Duration = Duration::from_millis(500);
/// How much longer than it may take the new program is waited for.
const GRACE: Duration = Duration::from_mins(1);

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct UpgradeArgs {
    /// The new program, with FILE.minisig beside it; for a fleet of several processors one for each
    #[arg(value_name = "FILE", required_unless_present_any = ["status", "pause", "resume", "abort"])]
    files: Vec<PathBuf>,
    /// The whole fleet, in waves
    #[arg(long)]
    fleet: bool,
    /// Show what runs, and how far the fleet is
    #[arg(long, conflicts_with_all = ["files", "fleet"])]
    status: bool,
    /// Begin with no further device of the fleet until --resume
    #[arg(long, conflicts_with_all = ["files", "fleet", "status"])]
    pause: bool,
    /// Go on with the fleet, and try those again that failed
    #[arg(long, conflicts_with_all = ["files", "fleet", "status", "pause"])]
    resume: bool,
    /// End the rollout; devices that have gone over stay as they are
    #[arg(long, conflicts_with_all = ["files", "fleet", "status", "pause", "resume"])]
    abort: bool,
    /// Though the program is older than what runs
    #[arg(long)]
    allow_downgrade: bool,
    /// Though nobody signed it; on this device only
    #[arg(long, conflicts_with = "fleet")]
    unsigned: bool,
    /// Devices that go first
    #[arg(long, value_name = "N", default_value_t = 1, requires = "fleet")]
    canary: usize,
    /// Share of the fleet in each later wave, in percent
    #[arg(long, value_name = "N", default_value_t = 25, requires = "fleet")]
    percent: usize,
    /// How long a device must be well before the next ones follow
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "30s", requires = "fleet")]
    steady: Duration,
    /// How long a device may take
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "15m", requires = "fleet")]
    within: Duration,
    /// Do not wait for what comes of it
    #[arg(long)]
    no_wait: bool,
    /// How to print what --status shows
    #[arg(short, long, value_enum, value_name = "FORMAT", requires = "status")]
    output: Option<Format>,
}

pub(crate) async fn run(args: &UpgradeArgs, session: &Session) -> Result<(), Failure> {
    let client = session.client()?;
    let steer = match (args.pause, args.resume, args.abort) {
        (true, ..) => Some(RolloutSteer::Pause),
        (_, true, _) => Some(RolloutSteer::Resume),
        (.., true) => Some(RolloutSteer::Abort),
        _ => None,
    };
    if args.status {
        return show(&client, args.output).await;
    }
    if let Some(steer) = steer {
        let view: RolloutView = client.post(ROLLOUT_STEER, &steer).await?;
        return say!("the fleet's way to {} {}", view.version, stands(&view.phase));
    }
    let config = session.config()?;
    if args.fleet {
        return fleet(args, &config, &client).await;
    }
    let [file] = &args.files[..] else {
        return Err(Failure::usage("one device runs one program: give one FILE, or --fleet"));
    };
    one(args, file, &config, &client).await
}

/// Copies a file to where the agent judges it; what can be said against it at once is said here.
fn hand_in(file: &Path, config: &Config, unsigned: bool) -> Result<String, Failure> {
    let signature = incoming::signature_of(file)?;
    if !unsigned {
        let text = match &signature {
            Some(text) => text.clone(),
            None if config.upgrade.keys.is_empty() => String::new(),
            None => {
                return Err(Failure::new(Code::Failed, format!("there is no signature {}.minisig", file.display()))
                    .hint("whoever makes releases signs them: minisign -S -m FILE"));
            }
        };
        signature::check(file, &text, &config.upgrade.keys)?;
    }
    release::of_any(file)?;
    Ok(incoming::copy_in(&config.upgrade_dir(), file, signature.as_deref())?)
}

async fn one(args: &UpgradeArgs, file: &Path, config: &Config, client: &Client) -> Result<(), Failure> {
    let digest = hand_in(file, config, args.unsigned)?;
    let ask = UpgradeAsk { digest: digest.clone(), unsigned: args.unsigned, downgrade: args.allow_downgrade };
    let begun: UpgradeBegun = client.post(UPGRADE, &ask).await?;
    note!("{} takes over from {}; containers run on.", begun.version, begun.before);
    if args.no_wait {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(begun.within_seconds) + GRACE;
    loop {
        tokio::time::sleep(LOOK).await;
        // While it is exchanged no agent answers.
        let view = client.get::<UpgradeView>(UPGRADE).await;
        if let Ok(view) = &view
            && let Some(last) = view.last.as_ref().filter(|last| last.digest == digest && !view.on_trial)
        {
            if last.well {
                return say!("{} runs {}", view.device, last.version);
            }
            let why = format!("{} did not stay: {}", last.version, last.why);
            return Err(Failure::failed(why).hint(format!("{} runs {} again", view.device, view.version)));
        }
        if Instant::now() > deadline {
            let failure = Failure::failed(format!("{} has not said that it is well", begun.version));
            return Err(failure.hint("kith upgrade --status shows what runs; does something start the agent again?"));
        }
    }
}

async fn fleet(args: &UpgradeArgs, config: &Config, client: &Client) -> Result<(), Failure> {
    let digests = args.files.iter().map(|file| hand_in(file, config, false)).collect::<Result<_, _>>()?;
    let ask = RolloutAsk {
        digests,
        downgrade: args.allow_downgrade,
        canary: args.canary,
        percent: args.percent,
        steady_seconds: args.steady.as_secs(),
        within_seconds: args.within.as_secs(),
    };
    let begun: RolloutView = client.post(ROLLOUT, &ask).await?;
    note!(
        "{} goes to {}, wave by wave; containers run on.",
        begun.version,
        output::count(begun.devices.len(), "device")
    );
    if args.no_wait {
        return Ok(());
    }
    let mut last = begun;
    loop {
        tokio::time::sleep(LOOK).await;
        // The agent that is asked is exchanged too.
        let Ok(view) = client.get::<UpgradeView>(UPGRADE).await else { continue };
        let Some(rollout) = view.rollout.filter(|rollout| rollout.id == last.id) else { continue };
        tell(&last, &rollout);
        match rollout.phase.as_str() {
            "running" => last = rollout,
            "complete" => return say!("all devices run {}", rollout.version),
            "failed" => {
                let failure = Failure::failed(format!("the rollout has stopped: {}", rollout.why));
                return Err(failure.hint(
                    "devices that have gone over stay as they are. kith upgrade --status shows each one; --resume goes \
                     on, --abort ends it",
                ));
            }
            phase => {
                return Err(Failure::new(Code::Refused, format!("somebody has {phase} the rollout"))
                    .hint("kith upgrade --status shows how far it is"));
            }
        }
    }
}

/// How a rollout stands, as the end of a sentence.
fn stands(phase: &str) -> &str {
    match phase {
        "running" => "goes on",
        "paused" => "is paused",
        "failed" => "has failed",
        "aborted" => "was ended",
        "complete" => "is complete",
        other => other,
    }
}

/// Says what is other than before.
fn tell(before: &RolloutView, now: &RolloutView) {
    for device in &now.devices {
        let known = before.devices.iter().find(|known| known.name == device.name);
        if known.is_none_or(|known| known.phase != device.phase) && device.phase != "waiting" {
            note!("{}: {}", device.name, device.phase);
        }
    }
    if now.waits != before.waits && !now.waits.is_empty() {
        note!("waiting for {}", now.waits);
    }
}

async fn show(client: &Client, format: Option<Format>) -> Result<(), Failure> {
    let view: UpgradeView = client.get(UPGRADE).await?;
    match format {
        Some(Format::Json) => return output::json(&view),
        Some(Format::Yaml) => return output::yaml(&view),
        Some(Format::Wide | Format::Name) => return Err(Failure::usage("--status prints json or yaml, or a table")),
        None => {}
    }
    let trial = if view.on_trial { ", which has still to show that it is well" } else { "" };
    say!("{} runs {}{trial}", view.device, view.version)?;
    if view.installed != view.version {
        say!("the installed program is {}", view.installed)?;
    }
    if let Some(last) = view.last.as_ref().filter(|last| !last.well) {
        say!("{} did not stay: {}", last.version, last.why)?;
    }
    let Some(rollout) = &view.rollout else { return say!("the fleet has had no rollout") };
    let why = if rollout.why.is_empty() { String::new() } else { format!(": {}", rollout.why) };
    say!("the fleet's way to {} {}{why}", rollout.version, stands(&rollout.phase))?;
    if !rollout.waits.is_empty() {
        say!("it waits for {}", rollout.waits)?;
    }
    let mut table = Table::new(["DEVICE", "PHASE", "SINCE", "WHY"]);
    for device in &rollout.devices {
        table.row([&device.name, &device.phase, &device.at, &device.why].map(String::as_str));
    }
    say!("\n{}", table.render().trim_end())
}

impl From<UpgradeError> for Failure {
    fn from(error: UpgradeError) -> Self {
        let failure = Self::of(Code::Failed, &error);
        match &error {
            UpgradeError::Io { .. } => failure.hint("kith upgrade is for root, on the device itself"),
            _ => failure,
        }
    }
}
