//! Logs as written by shims, read back through the API.
