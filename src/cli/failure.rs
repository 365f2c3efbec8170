//! How a command fails: what went wrong with its chain of causes, what to do about it, and the
//! exit code that scripts see.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// What scripts can tell apart. 0 is success and has no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// It was tried and did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The fleet understood and said no.
    Refused = 3,
    /// Nobody who could do it was reached: no agent, or no quorum.
    Unreachable = 4,
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What scripts see.
    pub(crate) code: Code,
    /// The chain of causes, outermost first, each once. Empty: there is nothing to say, because
    /// whoever read the output closed it, or each part of the work was reported already.
    pub(crate) chain: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The HTTP status of the answer that said no, where there was one.
    pub(crate) status: Option<hyper::StatusCode>,
    /// The exit code of a program that was run, where that is this command's too.
    pub(crate) program: Option<u8>,
}

impl Failure {
    /// A failure with a plain message.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, chain: vec![message.into()], hint: None, status: None, program: None }
    }

    /// Something was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The failure that `error` and its sources describe.
    pub(crate) fn of(code: Code, error: &dyn Error) -> Self {
        let mut chain = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries repeat the source in their own message: say it once.
            if !chain.last().is_some_and(|last: &String| last.ends_with(&text)) {
                chain.push(text);
            }
            next = error.source();
        }
        Self { code, chain, hint: None, status: None, program: None }
    }

    /// A failure of which everything has been said.
    pub(crate) fn said(code: Code) -> Self {
        Self { code, chain: Vec::new(), hint: None, status: None, program: None }
    }

    /// A program that was run ended with a code other than 0. It has said why itself.
    pub(crate) fn ended(code: u8) -> Self {
        Self { program: Some(code), ..Self::said(Code::Failed) }
    }

    /// What the shell sees.
    pub(crate) fn exit_code(&self) -> u8 {
        self.program.unwrap_or(self.code as u8)
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done in front of the chain.
    #[must_use]
    pub(crate) fn during(mut self, step: impl Into<String>) -> Self {
        if !self.chain.is_empty() {
            self.chain.insert(0, step.into());
        }
        self
    }

    /// What a person reads: `error:` with the chain, then `hint:`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some((first, rest)) = self.chain.split_first() {
            // Some libraries end their messages with a line break.
            _ = writeln!(text, "error: {}", first.trim_end());
            for cause in rest {
                _ = writeln!(text, "  because: {}", cause.trim_end());
            }
        }
        if let Some(hint) = &self.hint {
            _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// For a `?` on writes to the terminal: a reader that went away (`| head`) is no mistake.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::said(Code::Failed)
        } else {
            Self::of(Code::Failed, &error)
        }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::of(Code::Failed, &error).hint("configs/agent.toml shows every setting with its default")
    }
}

impl From<crate::network::NetworkError> for Failure {
    fn from(error: crate::network::NetworkError) -> Self {
        Self::of(Code::Failed, &error)
    }
}

/// Gives an operation its name when it fails: `write(..).doing(|| format!("write {path}"))?`.
pub(crate) trait Doing<T> {
    /// Turns an error into a failure of the named operation.
    fn doing(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error> Doing<T> for Result<T, E> {
    fn doing(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(Code::Failed, &error).during(step()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_reads_as_chain_and_hint() {
        let error = Outer(std::io::Error::other("disk on fire"));
        let failure = Failure::of(Code::Failed, &error).during("start").hint("call for help");
        assert_eq!(
            failure.text(),
            "error: start\n  because: open the store\n  because: disk on fire\nhint: call for help\n"
        );
    }

    #[test]
    fn no_empty_line_stands_between_error_and_hint() {
        let failure = Failure::failed("parse agent.toml\n").hint("look at it");
        assert_eq!(failure.text(), "error: parse agent.toml\nhint: look at it\n");
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(failure.text(), "");
    }
}
