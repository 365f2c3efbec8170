//! What `kith completion` prints, loaded as an administrator's shell loads it: real bash, zsh and fish are
//! asked for the words that may follow. Needs the three shells; `make tools-test` installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const KITH: &str = env!("CARGO_BIN_EXE_kith");

/// Half a command line, what has to be offered, and what must not be.
const LINES: [(&str, &[&str], &[&str]); 9] = [
    ("kith ro", &["rollout"], &["apply", "status"]),
    ("kith dev ", &["cut", "heal", "up"], &["apply", "rollout"]),
    ("kith status --", &["--settings", "--help"], &["--force", "--follow"]),
    ("kith dev image lo", &["load"], &["up", "save"]),
    ("kith get pods --all", &["--all-namespaces"], &["--force"]),
    ("kith rollout re", &["restart"], &["status", "apply"]),
    ("kith logs -", &["-f", "--follow", "--since"], &["--force"]),
    ("kith get pods -o j", &["json"], &["yaml", "wide"]),
    ("kith completion ", &["bash", "fish", "zsh"], &["powershell"]),
];

/// A shell with the script where its packages put it, which nothing else on this machine changes.
struct Shell {
    name: &'static str,
    home: tempfile::TempDir,
}

impl Shell {
    fn new(name: &'static str, place: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let script = Command::new(KITH).args(["completion", name]).output().unwrap();
        assert!(script.status.success() && !script.stdout.is_empty(), "kith completion {name}");
        let file = home.path().join(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, script.stdout).unwrap();
        Self { name, home }
    }

    /// Runs the shell without anybody's settings, and returns what it printed.
    fn run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> String {
        let bin = Path::new(KITH).parent().unwrap().display();
        let path = format!("{bin}:/usr/local/bin:/usr/bin:/bin");
        let mut command = Command::new(self.name);
        command.args(arguments).env_clear().current_dir(self.home.path()).stdin(Stdio::null());
        command.env("HOME", self.home.path()).env("PATH", path).env("TERM", "dumb").envs(settings.iter().copied());
        let output = command.output().unwrap_or_else(|error| {
            panic!("{0}: {error}: install it first: apt-get install {0}", self.name);
        });
        let (said, complained) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && complained.is_empty(), "{} {arguments:?}: {said}{complained}", self.name);
        said
    }

    /// Each line is answered with a list of words, one on a line.
    fn complete(&self, answer: impl Fn(&Self, &str) -> String) {
        for (line, offered, withheld) in LINES {
            let answer = answer(self, line);
            let words: BTreeSet<&str> = answer.lines().map(str::trim).collect();
            for word in offered {
                assert!(words.contains(word), "{} offers no {word} after {line:?}: {words:?}", self.name);
            }
            for word in withheld {
                assert!(!words.contains(word), "{} offers {word} after {line:?}: {words:?}", self.name);
            }
        }
    }
}

/// Readline's part: it cuts the line into words, calls the function that was registered, and takes
/// what begins with the last word.
const BASH: &str = r#"
set -u
source completions/kith
registered=$(complete -p kith)
[[ $registered =~ -F\ ([^ ]+) ]] || { echo "no function: $registered" >&2; exit 1; }
read -ra COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9 COMP_KEY=9
COMPREPLY=()
"${BASH_REMATCH[1]}" kith "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes() {
    let shell = Shell::new("bash", "completions/kith");
    shell.complete(|shell, line| shell.run(&["--noprofile", "--norc", "-c", BASH, "bash", line], &[]));
}

/// On a terminal of its own, as the key is pressed there: the line editor, `compinit` and its functions
/// are the real ones, and all that they offer is written down.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
fresh() { zpty -r shell seen "*$1*" || { print -u2 "the inner shell ended before $1: $seen"; exit 1 } }
zpty -w shell "PS1=REA''DY; PS2=; source ./inner"
fresh READY
zpty -w -n shell "$1"$'\t'
fresh DONE
zpty -d shell
print -r -- "$(<offered)"
"#;

const ZSH_INNER: &str = r#"
unset zle_bracketed_paste; unsetopt beep
fpath=(./functions $fpath)
autoload -Uz compinit && compinit -D -u
: >offered
compadd() {
    # What is only asked, and not offered, is left alone.
    if [[ -n ${argv[(r)-[OAD]]} ]]; then builtin compadd "$@"; return; fi
    local -a found
    builtin compadd -O found "$@"
    print -rl -- "${found[@]}" >>offered
    builtin compadd "$@"
}
told() { print -rn -- DONE }
comppostfuncs=(told)
bindkey '^I' list-choices
"#;

#[test]
fn zsh_completes() {
    let shell = Shell::new("zsh", "functions/_kith");
    fs::write(shell.home.path().join("inner"), ZSH_INNER).unwrap();
    shell.complete(|shell, line| shell.run(&["-f", "-c", ZSH, "zsh", line], &[]));
}

#[test]
fn fish_completes() {
    let shell = Shell::new("fish", "data/fish/vendor_completions.d/kith.fish");
    let data = shell.home.path().join("data").display().to_string();
    shell.complete(|shell, line| {
        // A word may be followed by what it means.
        let script = format!("complete -C '{line}' | string split --fields 1 \\t; true");
        shell.run(&["--private", "-c", &script], &[("XDG_DATA_DIRS", &data), ("XDG_CONFIG_HOME", &data)])
    });
}
