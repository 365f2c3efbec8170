//! Programs inside a device: in its network namespace, with `kith` speaking to its agent.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::fleet::Device;
use crate::cli::failure::{Code, Failure};
use crate::network::netns;

const SOCKET: &str = "KITH_SOCKET";
const CONFIG: &str = "KITH_CONFIG";

/// Becomes the command, inside the device: its exit code, its signals and its terminal are then
/// this one's. Returns only when that fails.
pub(super) fn become_command(device: &Device, command: &[OsString]) -> Failure {
    // No thread has been started yet, so the whole program moves.
    if let Err(error) = netns::enter(&device.namespace()) {
        return Failure::from(error).hint("kith dev status shows what is left of the fleet");
    }
    let error = self::command(device, command).exec();
    let name = command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::of(Code::Failed, &error).during(format!("run {name} in {}", device.name()))
}

/// A command whose environment is the device's; the caller moves it into the namespace.
pub(super) fn command(device: &Device, words: &[impl AsRef<OsStr>]) -> Command {
    let (program, args) = words.split_first().map_or((OsStr::new("true"), &[][..]), |(p, a)| (p.as_ref(), a));
    let mut command = Command::new(program);
    command.args(args).env(SOCKET, device.socket()).env(CONFIG, device.config_file());
    // `kith` inside means this very program.
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(std::path::Path::parent) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
    }
    command
}

/// Takes away what would point an agent elsewhere, or change its settings; what it logs may be said so.
pub(super) fn clean_environment(command: &mut Command) {
    let ours = |name: &OsString| name.to_string_lossy().starts_with("KITH_") && name != "KITH_LOG";
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
}
