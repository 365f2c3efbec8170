//! The command line: one file per subcommand. It speaks to the API like any client; what works
//! without an agent (`init`, `join`, `image`, `dev`) does so on this device's own files.
//!
//! Results go to standard output, all else to standard error. Exit codes: 0 done, 1 failed,
//! 2 usage, 3 refused by the fleet, 4 unreachable.

#![expect(clippy::disallowed_methods, reason = "a command line reads files and clocks for its user")]

mod agent;
mod apply;
mod attach;
mod backup;
mod client;
mod completion;
mod cordon;
mod cp;
mod debug;
mod delete;
mod describe;
mod dev;
mod diff;
mod doctor;
mod drain;
mod events;
mod exec;
mod failure;
mod get;
mod image;
mod init;
mod join;
mod keeper;
mod kubeconfig;
mod label;
mod leave;
mod logs;
mod man;
mod manifests;
mod output;
mod plan;
mod pod;
mod port_forward;
mod recover;
mod rollout;
mod run;
mod scale;
mod status;
mod target;
mod token;
mod top;
mod upgrade;
mod version;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::upgrade::release;
use client::Client;
use failure::{Code, Doing, Failure};
use keeper::Keeper;

/// `--config` without a file: the settings themselves are asked for.
const SHOWN: &str = "-";

/// The hidden first argument that makes this program a container's shim.
const SHIM: &str = "shim";

/// Kith turns small Linux devices into one fleet without a master.
#[derive(Debug, Parser)]
#[command(name = "kith", version = release::version(), propagate_version = false, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every subcommand takes.
#[derive(Debug, Args)]
struct Common {
    /// Settings of the agent [default: /etc/kith/agent.toml]; kith status --config shows them
    #[arg(long, global = true, value_name = "FILE", env = "KITH_CONFIG", hide_env_values = true)]
    #[arg(num_args = 0..=1, default_missing_value = SHOWN)]
    config: Option<PathBuf>,
    /// Socket of the agent [default: <run_dir>/kith.sock, as the settings have it]
    #[arg(long, global = true, value_name = "PATH", env = "KITH_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// Show what is asked of the agent
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Common {
    /// The settings' file, where one is named.
    fn config_file(&self) -> Option<PathBuf> {
        match &self.config {
            Some(shown) if shown.as_os_str() == SHOWN => std::env::var_os("KITH_CONFIG").map(PathBuf::from),
            named => named.clone(),
        }
    }

    /// Whether `--config` was given without a file.
    fn shows_settings(&self) -> bool {
        self.config.as_ref().is_some_and(|file| file.as_os_str() == SHOWN)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (systemd starts it)
    Agent(agent::AgentArgs),
    /// Found a fleet: this device is its first
    Init(init::InitArgs),
    /// Enter a fleet with a join token
    Join(join::JoinArgs),
    /// Leave the fleet
    Leave(leave::LeaveArgs),
    /// Write the fleet's whole state to one file, while it runs
    Backup(backup::BackupArgs),
    /// Make a fleet from a backup: this device is its first
    Restore(backup::RestoreArgs),
    /// The quorum is lost for good: go on with this device alone
    Recover(recover::RecoverArgs),
    /// Exchange the program under running containers: here, or in the whole fleet
    Upgrade(upgrade::UpgradeArgs),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// This fleet at a glance: who leads, who votes, what is wrong and what to do
    Status(status::StatusArgs),
    /// Look for what is wrong with this device; needs no agent
    Doctor(doctor::DoctorArgs),
    /// Make objects as a file describes them
    Apply(apply::ApplyArgs),
    /// Show what apply would change
    Diff(diff::DiffArgs),
    /// List objects
    Get(get::GetArgs),
    /// Show objects with their events, and why they are not as they should be
    Describe(describe::DescribeArgs),
    /// What has happened, latest last
    Events(events::EventsArgs),
    /// Set labels of objects, and take them away
    Label(label::LabelArgs),
    /// Delete objects
    Delete(delete::DeleteArgs),
    /// Change the number of copies
    Scale(scale::ScaleArgs),
    /// Follow a Deployment's rollout, begin it anew, go back
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Give a device no new pods, and let another one lead
    Cordon(cordon::CordonArgs),
    /// Let a device take pods and lead again
    Uncordon(cordon::CordonArgs),
    /// Cordon a device, and have its pods start elsewhere
    Drain(drain::DrainArgs),
    /// Print what containers wrote
    Logs(logs::LogsArgs),
    /// Make a pod from an image
    Run(run::RunArgs),
    /// Run a program in a container
    Exec(exec::ExecArgs),
    /// See what a container writes from now on, and talk to it
    Attach(attach::AttachArgs),
    /// Look at a running pod from a container of another image beside its own
    Debug(debug::DebugArgs),
    /// Copy files into a container or out of it
    Cp(cp::CpArgs),
    /// What devices and pods use now
    #[command(subcommand)]
    Top(top::TopCommand),
    /// Lead ports of this machine into a pod
    PortForward(port_forward::PortForwardArgs),
    /// What the fleet would do, and why, without doing it
    Plan(plan::PlanArgs),
    /// Pull, push, import, load, save, list and remove images on this device
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Print a file with which kubectl reaches this fleet
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// A whole fleet on this one machine, in network namespaces
    Dev(dev::DevArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Print the version
    Version(version::VersionArgs),
}

/// What the common flags come to.
#[derive(Debug)]
struct Session {
    common: Common,
}

impl Session {
    /// The agent's settings.
    fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.common.config_file().as_deref())?)
    }

    /// A client of the agent that the flags name.
    fn client(&self) -> Result<Client, Failure> {
        let socket = match &self.common.socket {
            Some(socket) => socket.clone(),
            None => socket_in(&self.config()?.run_dir),
        };
        Ok(Client::new(socket, self.common.verbose).kept_by(self.keeper()))
    }

    /// Who starts the agent that the flags name: systemd knows only the one that needs no flags.
    fn keeper(&self) -> Keeper {
        let named = self.common.socket.is_some() || self.common.config_file().is_some();
        if named { Keeper::Hand } else { Keeper::here() }
    }
}

/// Where an agent has its socket.
fn socket_in(run_dir: &Path) -> PathBuf {
    run_dir.join("kith.sock")
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Before any thread or runtime exists: a shim forks.
    if args.get(1).is_some_and(|arg| arg == SHIM) {
        return crate::runtime::shim::main(&args[2..]);
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version are asked for; anything else is a mistake. A closed pipe is neither.
            drop(asked.print());
            return if asked.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command, &Session { common: cli.common }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let paint = output::Paint::stderr();
            let text = failure.text();
            let text = text.replacen("error:", &paint.red("error:"), 1).replacen(
                "\nhint:",
                &format!("\n{}", paint.yellow("hint:")),
                1,
            );
            // What was said already is not followed by an empty line.
            if !text.is_empty() {
                output::aside(format_args!("{}", text.trim_end()));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command, session: &Session) -> Result<(), Failure> {
    if session.common.shows_settings() && !matches!(command, Command::Status(_)) {
        return Err(Failure::usage("--config names no file").hint("kith status --config shows the settings"));
    }
    match command {
        Command::Agent(args) => agent::run(&args, session),
        Command::Init(args) => init::run(&args, session),
        Command::Join(args) => wait(join::run(&args, session)),
        Command::Leave(args) => wait(leave::run(&args, session)),
        Command::Backup(args) => wait(backup::back_up(&args, session)),
        Command::Restore(args) => wait(backup::restore(&args, session)),
        Command::Recover(args) => wait(recover::run(&args, &session.client()?)),
        Command::Upgrade(args) => wait(upgrade::run(&args, session)),
        Command::Token(command) => wait(token::run(command, &session.client()?)),
        Command::Status(args) => wait(status::run(&args, session)),
        Command::Doctor(args) => doctor::run(&args, session),
        Command::Apply(args) => wait(apply::run(&args, &session.client()?)),
        Command::Diff(args) => wait(diff::run(&args, &session.client()?)),
        Command::Get(args) => wait(get::run(&args, &session.client()?)),
        Command::Describe(args) => wait(describe::run(&args, &session.client()?)),
        Command::Events(args) => wait(events::run(&args, &session.client()?)),
        Command::Label(args) => wait(label::run(&args, &session.client()?)),
        Command::Delete(args) => wait(delete::run(&args, &session.client()?)),
        Command::Scale(args) => wait(scale::run(&args, &session.client()?)),
        Command::Rollout(command) => wait(rollout::run(&command, &session.client()?)),
        Command::Drain(args) => wait(drain::run(&args, &session.client()?)),
        Command::Cordon(args) => wait(cordon::run(&args, true, &session.client()?)),
        Command::Uncordon(args) => wait(cordon::run(&args, false, &session.client()?)),
        Command::Logs(args) => wait(logs::run(&args, &session.client()?)),
        Command::Run(args) => wait(run::run(&args, &session.client()?)),
        Command::Exec(args) => wait(exec::run(&args, &session.client()?)),
        Command::Debug(args) => wait(debug::run(&args, &session.client()?)),
        Command::Attach(args) => wait(attach::run(&args, &session.client()?)),
        Command::Cp(args) => wait(cp::run(&args, &session.client()?)),
        Command::Top(command) => wait(top::run(&command, &session.client()?)),
        Command::PortForward(args) => wait(port_forward::run(&args, &session.client()?)),
        Command::Plan(args) => wait(plan::run(&args, &session.client()?)),
        Command::Image(command) => image::run(&command, session),
        Command::Kubeconfig(args) => wait(kubeconfig::run(&args, &session.client()?)),
        Command::Completion(args) => completion::run(&args),
        Command::Dev(args) => dev::run(args, session),
        Command::Man(args) => man::run(&args),
        Command::Version(args) => wait(version::run(&args, session)),
    }
}

/// Runs a future on this thread until it is done.
fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.doing(|| "start a runtime".into())?.block_on(work)
}

/// A span on the command line: `90s`, `5m`, `1h30m`, `2d`.
fn parse_span(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is no span of time: write 90s, 5m, 1h30m or 2d");
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(std::time::Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn common_flags_stand_anywhere() {
        for line in ["kith --socket /x get pods", "kith get pods --socket /x", "kith get --socket=/x pods -v"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.common.socket.as_deref(), Some(Path::new("/x")), "{line}");
        }
    }

    #[test]
    fn spans_add_up() {
        let seconds = |text| parse_span(text).map(|span| span.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("2d"), Ok(172_800));
        for wrong in ["", "5", "m", "5x", "-5s", "99999999999999999999s", "5s5"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
