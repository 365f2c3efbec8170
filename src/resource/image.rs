//! What an image says about the containers made from it.

use serde::{Deserialize, Serialize};

/// The part of an OCI image configuration that shapes a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments after the entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs, in the image's order.
    pub env: Vec<String>,
    /// The folder that the program starts in; empty means `/`.
    pub working_dir: String,
    /// The user that the image asks for, resolved against its own `/etc/passwd`.
    pub user: ImageUser,
    /// The signal that asks the program to stop, such as `SIGTERM`; empty means `SIGTERM`.
    pub stop_signal: String,
}

/// A numeric user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}
