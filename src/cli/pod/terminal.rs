//! The terminal of whoever types: raw while a program elsewhere has it, and as it was afterwards,
//! whatever happens.

use std::io::IsTerminal;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use nix::libc;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::cli::failure::Failure;

/// How the terminal was, for as long as it is raw.
static EARLIER: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input as a descriptor.
#[expect(unsafe_code, reason = "standard input has no owner")]
fn stdin() -> BorrowedFd<'static> {
    // SAFETY: this program never closes its standard input.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

/// Whether somebody types here.
pub(crate) fn is_one() -> bool {
    std::io::stdin().is_terminal()
}

/// Keys go through as they are until this is dropped.
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal raw.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let earlier = tcgetattr(stdin()).map_err(std::io::Error::from)?;
        let mut raw = earlier.clone();
        cfmakeraw(&mut raw);
        *EARLIER.lock().unwrap_or_else(PoisonError::into_inner) = Some(earlier);
        // A release does not unwind: what a panic has to say comes after the terminal is back.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let guard = Self(());
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw).map_err(std::io::Error::from)?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(earlier) = EARLIER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &earlier);
    }
}

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

/// The terminal's size in characters, as a message for the other side.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn size() -> Option<String> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor and a structure that outlives the call.
    unsafe { window_size(libc::STDIN_FILENO, &raw mut size) }.ok()?;
    (size.ws_col > 0).then(|| format!("{{\"Width\":{},\"Height\":{}}}", size.ws_col, size.ws_row))
}
