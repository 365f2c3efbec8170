//! regex-lite under the name of regex, for the crates below that ask for regex: what they match is
//! short and rare, and the tables and engines of regex are a megabyte of the binary.

pub use regex_lite::*;
