//! Where pages are typed: a shell on a device of a real fleet, in a folder with the files that pages name.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Fleet, KITH, succeed};
use crate::page::{Names, Step};
use crate::upgrade::Maker;

/// How long what is shown may take to come about.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a command of a page needs to be typed here. Without a note it is typed on d1 as it stands, has
/// to succeed, and has to print what is shown.
#[derive(Clone, Copy)]
pub enum How {
    /// This is done before.
    After(fn(&mut Stage)),
    /// On a terminal, with these keys.
    Terminal(&'static str),
    /// Without one, with this on its standard input.
    Keys(&'static str),
    /// It goes on until somebody presses Ctrl-C, here after so many seconds, and has printed this.
    GoesOn(u8, &'static str),
    /// It does not succeed in this place, and says why.
    Refused(&'static str),
    /// It says in its exit code what it thinks of this machine, and prints this at least.
    Judges(&'static str),
    /// More is printed than is shown.
    Part,
    /// It can not be typed here, for this reason; where the same is run, or kept ready to be run: a file
    /// and words that stand in it.
    Elsewhere(&'static str, &'static str, &'static str),
}

/// A command of a page, and what it needs.
pub struct Note(pub &'static str, pub &'static str, pub How);

pub struct Stage {
    pub fleet: Fleet,
    pub names: Names,
    /// Where it is typed: a device, or none for this machine.
    pub device: &'static str,
    /// Variables of the shell.
    pub variables: Vec<(&'static str, String)>,
    folder: tempfile::TempDir,
    /// Makes and signs other releases.
    pub maker: Option<Maker>,
    last: i32,
    kept: Vec<Box<dyn std::any::Any>>,
}

impl Stage {
    pub fn new(fleet: Fleet) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let kubectl =
            std::fs::canonicalize("target/tools/kubectl-1.32").expect("kubectl is missing: run scripts/kubectl.sh");
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let link = |to: &Path, at: PathBuf| std::os::unix::fs::symlink(to, at).unwrap();
        link(Path::new(KITH), bin.join("kith"));
        link(&kubectl, bin.join("kubectl"));
        for name in ["configs", "scripts", "systemd", "cross"] {
            link(&std::fs::canonicalize(name).unwrap(), folder.path().join(name));
        }
        let (names, kept) = (Names::default(), Vec::new());
        Self { fleet, names, device: "d1", variables: Vec::new(), folder, maker: None, last: 0, kept }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Keeps something until the end.
    pub fn keep(&mut self, what: impl std::any::Any) {
        self.kept.push(Box::new(what));
    }

    /// Lets go of what was kept.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// Types something that no page shows, and insists on success.
    pub fn prepare(&self, line: &str) -> String {
        let line = self.names.here(line);
        succeed(&mut self.shell(&line))
    }

    /// A device that is in no fleet, in a folder of its own: its settings are `NAME/agent.toml`.
    pub fn alone(&mut self, name: &'static str, settings: &str) {
        let dir = self.path(name);
        if !dir.exists() {
            let mut text = settings.to_owned();
            for (key, folder) in [("data_dir", "data"), ("run_dir", "run"), ("log_dir", "log")] {
                writeln!(text, "{key} = \"{}\"", dir.join(folder).display()).unwrap();
            }
            writeln!(text, "cgroup = \"/kith/dev/{}/{name}\"\nmanifests_dir = \"\"", self.fleet.name()).unwrap();
            self.write(&format!("{name}/agent.toml"), &text);
        }
        self.variables =
            vec![("KITH_CONFIG", dir.join("agent.toml").display().to_string()), ("KITH_SOCKET", String::new())];
    }

    fn shell(&self, line: &str) -> Command {
        let mut script = format!("exec 2>&1; cd {}; ", self.folder.path().display());
        for (name, value) in &self.variables {
            let set = if value.is_empty() { format!("unset {name}; ") } else { format!("export {name}='{value}'; ") };
            script.push_str(&set);
        }
        write!(script, "(exit {}); {line}", self.last).unwrap();
        let mut command = if self.device.is_empty() {
            let mut command = Command::new("bash");
            command.args(["-c", &script]);
            command
        } else {
            self.fleet.inside(self.device, &["bash", "-c", &script])
        };
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("KUBECONFIG", self.path("kubeconfig")).stdin(Stdio::null());
        command
    }

    /// What is typed here for a command: `kith dev` on this machine, and with a fleet of another name.
    fn here(&mut self, step: &Step) -> String {
        let typed = self.names.here(&step.typed);
        if typed.starts_with("kith dev ") || typed.starts_with("scripts/") {
            self.device = "";
        }
        let own = format!("kith dev --fleet {} ", self.fleet.name());
        typed
            .replace("kith dev --fleet mine ", "kith dev --fleet t-mine ")
            .replace("kith dev ", &own)
            .replace(&format!("{own}--fleet t-mine "), "kith dev --fleet t-mine ")
    }

    /// Types a command of a page with all that it needs; returns what is wrong.
    pub fn play(&mut self, step: &Step, hows: &[How]) -> Vec<String> {
        if hows.iter().any(|how| matches!(how, How::Elsewhere(..))) {
            return Vec::new();
        }
        let since = Instant::now();
        eprintln!("{}", step.place());
        (self.device, self.variables) = ("d1", Vec::new());
        for how in hows {
            if let How::After(prepare) = how {
                prepare(self);
            }
        }
        let line = self.here(step);
        let begun = Instant::now();
        loop {
            let (code, printed) = self.run(&line, hows);
            let wrong = self.wrong(step, hows, code, &printed);
            self.last = code;
            if wrong.is_empty() || !looks(&step.typed) || begun.elapsed() > PATIENCE {
                eprintln!("    {:.1?}, {:.1?} with what it needs", begun.elapsed(), since.elapsed());
                let told = |what| format!("{}: {what}", step.place());
                return wrong.into_iter().map(told).collect();
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn run(&self, line: &str, hows: &[How]) -> (i32, String) {
        let mut command = self.shell(line);
        let mut keys = "";
        for how in hows {
            match how {
                How::Keys(typed) => keys = typed,
                How::Terminal(typed) => {
                    keys = typed;
                    let script = self.path("typed.sh");
                    std::fs::write(&script, line).unwrap();
                    let on_terminal = format!("script -qec 'bash {}' /dev/null", script.display());
                    command = self.shell(&on_terminal);
                }
                How::GoesOn(seconds, _) => {
                    let script = self.path("typed.sh");
                    std::fs::write(&script, line).unwrap();
                    command =
                        self.shell(&format!("timeout -s INT {seconds} bash -c \"exec $(cat {})\"", script.display()));
                }
                _ => {}
            }
        }
        if !keys.is_empty() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(mut input) = child.stdin.take() {
            // Keys that nobody waits for are no mistake.
            let _ = input.write_all(keys.as_bytes());
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text.replace('\r', ""))
    }

    /// What is other than the page says.
    fn wrong(&mut self, step: &Step, hows: &[How], code: i32, printed: &str) -> Vec<String> {
        let mut part = false;
        let mut succeeds = Some(!step.shown.iter().any(|line| line.starts_with("error:")));
        let mut says = "";
        for how in hows {
            match how {
                How::Part => part = true,
                How::Refused(why) => (succeeds, says) = (Some(false), why),
                How::Judges(what) | How::GoesOn(_, what) => (succeeds, says, part) = (None, what, true),
                _ => {}
            }
        }
        // What a fleet of another name prints is shown under the name of the page.
        let printed = printed.replace(self.fleet.name(), "dev");
        let mut wrong = if hows.iter().any(|how| matches!(how, How::Judges(_))) {
            Vec::new()
        } else {
            self.names.differs(&step.shown, &printed, part)
        };
        if !printed.contains(says) {
            wrong.push(format!("does not say {says:?}: {}", begin(&printed)));
        }
        if succeeds.is_some_and(|succeeds| succeeds != (code == 0)) {
            wrong.push(format!("ends with {code}: {}", begin(&printed)));
        }
        wrong
    }
}

fn begin(text: &str) -> &str {
    text.get(..1000).unwrap_or(text)
}

/// Whether it only looks, and may look again until what is shown has come about.
fn looks(typed: &str) -> bool {
    ["status", " get ", "curl", " describe ", " top ", " logs ", " events"].iter().any(|verb| typed.contains(verb))
}
