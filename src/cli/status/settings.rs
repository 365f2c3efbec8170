//! `kith status --config`: the settings that count on this device, and where each came from: those that
//! the agent runs with when it answers, else those that it would start with.

use super::super::Session;
use super::super::failure::{Code, Failure};
use super::super::output::{self, Format, Paint, Table, note, say};
use crate::api::fleet::SETTINGS;
use crate::config::{Config, Setting};

pub(super) async fn run(format: Option<Format>, session: &Session) -> Result<(), Failure> {
    let read = || Config::settle(session.common.config_file().as_deref(), &[]).map(|settled| settled.list());
    let settings = match session.client()?.get::<Vec<Setting>>(SETTINGS).await {
        Ok(running) => {
            let changed = read().map(|read| changed(&running, &read));
            match changed {
                Ok(keys) if keys.is_empty() => {}
                Ok(keys) => {
                    let reload = session.keeper().reload();
                    note!("changed since the agent read them: {}; {reload} takes them", keys.join(", "));
                }
                Err(error) => note!("warning: the agent would not start with the settings as they are now: {error}"),
            }
            running
        }
        Err(failure) if failure.code == Code::Unreachable => {
            note!("no agent answers: these are the settings that it would start with");
            read()?
        }
        Err(failure) => return Err(failure),
    };
    match format {
        Some(Format::Json) => output::json(&settings),
        Some(Format::Yaml) => output::yaml(&settings),
        Some(Format::Name) => settings.iter().try_for_each(|setting| say!("{}", setting.key)),
        None | Some(Format::Wide) => table(&settings, Paint::stdout()).print(),
    }
}

fn table(settings: &[Setting], paint: Paint) -> Table {
    let mut table = Table::new(["KEY", "VALUE", "FROM"]);
    for setting in settings {
        let plain = setting.origin == "default";
        let value = if plain { setting.value.clone() } else { paint.bold(&setting.value) };
        table.row([setting.key.clone(), value, setting.origin.clone()]);
    }
    table
}

/// Keys whose value in the file is another one now. The agent's variables and flags are not this
/// command's: what came from there is left out.
fn changed(running: &[Setting], read: &[Setting]) -> Vec<String> {
    let elsewhere = |setting: &Setting| setting.origin == "--set" || setting.origin.starts_with("KITH_");
    let differs = |now: &&Setting| {
        let before = running.iter().find(|before| before.key == now.key);
        !elsewhere(now) && before.is_none_or(|before| !elsewhere(before) && before.value != now.value)
    };
    read.iter().filter(differs).map(|setting| setting.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str, origin: &str) -> Setting {
        Setting { key: key.into(), value: value.into(), origin: origin.into() }
    }

    #[test]
    fn what_the_file_says_now_is_compared_with_what_runs() {
        let running = [
            setting("a", "1", "agent.toml:1"),
            setting("b", "2", "KITH_B"),
            setting("c", "3", "default"),
            setting("d", "4", "--set"),
        ];
        let read = [
            setting("a", "9", "agent.toml:1"),
            setting("b", "9", "default"),
            setting("c", "3", "default"),
            setting("e", "5", "agent.toml:2"),
        ];
        assert_eq!(changed(&running, &read), ["a", "e"]);
        let mut shown = table(&running, Paint::none());
        assert_eq!(shown.render().lines().nth(1), Some("a     1       agent.toml:1"));
    }
}
