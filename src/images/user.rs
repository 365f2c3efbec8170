//! The user that an image asks for, as a number: names are looked up in the image's own files.

use std::collections::BTreeMap;
use std::io::Read;

use super::layer::open_tar;
use super::{ImageError, ImageStore};
use crate::images::manifest::Descriptor;
use crate::resource::ImageUser;

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

impl ImageStore {
    /// Resolves `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    pub(super) fn user(&self, text: &str, layers: &[Descriptor]) -> Result<ImageUser, ImageError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() && group.is_none() {
            return Ok(ImageUser::default());
        }
        if let (Ok(uid), Some(Ok(gid))) = (user.parse(), group.map(str::parse)) {
            return Ok(ImageUser { uid, gid });
        }
        let files = self.files(&[PASSWD, GROUP], layers)?;
        let unknown = |kind: &str, name: &str| ImageError::Unsupported {
            what: format!("user {text:?} of the image"),
            hint: format!("it has no {kind} {name:?} in its /etc; name the user by number"),
        };
        let entry = records(&files, PASSWD).find(|fields| fields[0] == user || fields.get(2) == Some(&user));
        let number = |fields: &[&str], at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let uid = match user.parse() {
            Ok(uid) => uid,
            Err(_) if user.is_empty() => 0,
            Err(_) => entry.as_ref().and_then(|fields| number(fields, 2)).ok_or_else(|| unknown("user", user))?,
        };
        let group_entry = |name: &str| records(&files, GROUP).find(|fields| fields[0] == name);
        let gid = match group.filter(|group| !group.is_empty()).map(|group| (group, group.parse())) {
            Some((_, Ok(gid))) => gid,
            Some((group, Err(_))) => {
                group_entry(group).and_then(|fields| number(&fields, 2)).ok_or_else(|| unknown("group", group))?
            }
            // A number that the image does not know has root's group, as in Docker.
            None => entry.and_then(|fields| number(&fields, 3)).unwrap_or(0),
        };
        Ok(ImageUser { uid, gid })
    }

    /// Small files of the image, from the topmost layer that has each.
    fn files(
        &self,
        wanted: &[&'static str],
        layers: &[Descriptor],
    ) -> Result<BTreeMap<&'static str, String>, ImageError> {
        let mut found = BTreeMap::new();
        for layer in layers.iter().rev() {
            let what = format!("layer {}", layer.digest);
            let Some(held) = self.hold(&layer.digest)? else { continue };
            let mut of_layer = BTreeMap::new();
            super::members::each(open_tar(held.reader()?, &what)?, &what, |member, content| {
                let path = member.path.strip_prefix(b"./").unwrap_or(&member.path);
                let name = wanted.iter().find(|name| name.as_bytes() == path);
                if let Some(name) = name.filter(|_| member.kind.is_file()) {
                    let mut bytes = Vec::new();
                    let read = content.take(FILE_MAX).read_to_end(&mut bytes);
                    read.map_err(|error| ImageError::damaged(&*what, error))?;
                    of_layer.insert(*name, String::from_utf8_lossy(&bytes).into_owned());
                }
                Ok(())
            })?;
            for (name, text) in of_layer {
                found.entry(name).or_insert(text);
            }
            if found.len() == wanted.len() {
                break;
            }
        }
        Ok(found)
    }
}

fn records<'a>(files: &'a BTreeMap<&str, String>, name: &str) -> impl Iterator<Item = Vec<&'a str>> {
    files.get(name).map(String::as_str).unwrap_or_default().lines().map(|line| line.split(':').collect())
}
