//! The folder of static pods: what its files say, read again when one of them changed. A file that can
//! not be used is named, in the log and in an event of the node, and harms no other.

#![expect(clippy::disallowed_methods, reason = "pods come from files")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::time::Instant;

use crate::reconciler::static_pod;
use crate::resource::fields::{self, Verdict};
use crate::resource::occurrence::Occurrence;
use crate::resource::{chain, defaults, kind, manifest, meta, validate};

/// How often the folder is looked at. A few `stat` calls; nothing else wakes for it.
const LOOK: Duration = Duration::from_secs(5);

/// Files that are read; more are named as too many.
const FILES_LIMIT: usize = 128;

/// Bytes of one file.
const SIZE_LIMIT: u64 = 1 << 20;

/// A file as it was when it was read: inode, size, moment of the last change.
type Stamp = (u64, u64, i64, i64);

/// The static pods of this device.
pub(crate) struct Manifests {
    dir: Option<PathBuf>,
    node: String,
    stamps: BTreeMap<PathBuf, Stamp>,
    pods: Vec<Pod>,
    troubles: BTreeMap<String, String>,
    news: Vec<Occurrence>,
    next: Instant,
}

impl Manifests {
    /// The pods of the files in a folder; an empty path has none.
    pub(crate) fn new(dir: PathBuf, node: &str) -> Self {
        let mut all = Self {
            dir: Some(dir).filter(|dir| !dir.as_os_str().is_empty()),
            node: node.to_owned(),
            stamps: BTreeMap::new(),
            pods: Vec::new(),
            troubles: BTreeMap::new(),
            news: Vec::new(),
            next: Instant::now(),
        };
        all.look();
        all
    }

    /// What the files say.
    pub(crate) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// What is to be told of files that can not be used, each once.
    pub(crate) fn news(&mut self) -> Vec<Occurrence> {
        std::mem::take(&mut self.news)
    }

    /// Returns when a file has changed. Cancel-safe: the time of the next look stays.
    pub(crate) async fn moved(&mut self) {
        if self.dir.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep_until(self.next).await;
            self.next = Instant::now() + LOOK;
            if self.look() {
                return;
            }
        }
    }

    /// Reads the folder if anything in it is not as it was. Returns whether it was read.
    fn look(&mut self) -> bool {
        let Some(dir) = self.dir.clone() else { return false };
        let stamps = match stamps(&dir) {
            Ok(stamps) => stamps,
            Err(error) => {
                // What ran goes on: a folder that can not be read says nothing about its pods.
                self.trouble(&dir.display().to_string(), Some(format!("can not be read: {error}")));
                return false;
            }
        };
        self.trouble(&dir.display().to_string(), None);
        if stamps == self.stamps {
            return false;
        }
        let gone: Vec<String> = self
            .stamps
            .keys()
            .filter(|path| !stamps.contains_key(*path))
            .map(|path| path.display().to_string())
            .collect();
        for path in gone {
            self.trouble(&path, None);
        }
        let mut pods: BTreeMap<(Option<String>, Option<String>), Pod> = BTreeMap::new();
        for (number, path) in stamps.keys().enumerate() {
            let file = path.display().to_string();
            let read = if number < FILES_LIMIT {
                read(path, &self.node)
            } else {
                Err(format!("is left out: at most {FILES_LIMIT} files are read"))
            };
            let mut wrong = None;
            for pod in read.unwrap_or_else(|why| {
                wrong = Some(why);
                Vec::new()
            }) {
                let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                match pods.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(pod)),
                    Entry::Occupied(_) => {
                        let name = pod.metadata.name.unwrap_or_default();
                        wrong = Some(format!("names a pod that another file has: {name}"));
                    }
                }
            }
            self.trouble(&file, wrong);
        }
        self.pods = pods.into_values().collect();
        self.stamps = stamps;
        true
    }

    /// Notes what is wrong with a file, and tells it when it is news.
    fn trouble(&mut self, file: &str, wrong: Option<String>) {
        let Some(wrong) = wrong else {
            self.troubles.remove(file);
            return;
        };
        if self.troubles.get(file) == Some(&wrong) {
            return;
        }
        tracing::warn!(file, why = wrong, "a static pod can not be run");
        let involved = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.news.push(Occurrence {
            involved,
            warning: true,
            reason: "InvalidStaticPod",
            message: format!("{file}: {wrong}"),
            component: "kith-agent",
            host: self.node.clone(),
        });
        self.troubles.insert(file.to_owned(), wrong);
    }
}

/// The files of a folder with their stamps; hidden ones and folders are left out. A folder that is not
/// there has none.
fn stamps(dir: &Path) -> std::io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            found.insert(entry.path(), stamp);
        }
    }
    Ok(found)
}

fn read(path: &Path, node: &str) -> Result<Vec<Pod>, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("can not be read: {error}"))?;
    let mut text = String::new();
    file.take(SIZE_LIMIT + 1).read_to_string(&mut text).map_err(|error| format!("can not be read: {error}"))?;
    let name = path.display().to_string();
    let objects = manifest::parse(&text, &name).map_err(|error| chain(&error))?;
    objects.into_iter().map(|object| admit(object, node, &name)).collect()
}

/// A pod as it may run, or everything that is wrong with it.
fn admit(mut object: serde_json::Value, node: &str, file: &str) -> Result<Pod, String> {
    if object["apiVersion"] != "v1" || object["kind"] != "Pod" {
        return Err(format!("holds a {}, but only pods can be static", object["kind"]));
    }
    let mut wrong: Vec<String> = Vec::new();
    for finding in fields::inspect(&kind::POD, &mut object) {
        match finding.verdict {
            Verdict::Refused(why) => wrong.push(format!("{}: {why}", finding.path)),
            Verdict::Type { expected, found } => {
                wrong.push(format!("{}: {expected} is needed, not {found}", finding.path));
            }
            Verdict::Unknown { .. } => wrong.push(format!("{}: there is no such field", finding.path)),
            Verdict::Warned(why) => {
                tracing::warn!(file, field = finding.path, why, "a field of a static pod does nothing");
            }
        }
    }
    if meta::namespace(&object).is_empty() {
        meta::set(&mut object, "namespace", "default".into());
    }
    for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "ownerReferences"] {
        meta::remove(&mut object, field);
    }
    defaults::apply(&kind::POD, &mut object);
    wrong.extend(validate::object(&kind::POD, &object).iter().map(ToString::to_string));
    wrong.extend(validate::creation(&kind::POD, &object).iter().map(ToString::to_string));
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    static_pod(&object, node, file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: web}, \
                        spec: {hostNetwork: true, containers: [{name: c, image: 'hello:1'}]}}";

    #[test]
    fn files_come_change_and_go_and_bad_ones_are_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("web.yaml", GOOD);
        write(".hidden.yaml", "nonsense: [");
        let mut all = Manifests::new(dir.path().to_owned(), "d1");
        let names =
            |all: &Manifests| all.pods().iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(&all), ["web-d1"]);
        assert_eq!(all.news(), []);
        let uid = all.pods()[0].metadata.uid.clone();

        write(
            "bad.yaml",
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {hostNetwork: true, containerz: []}}",
        );
        write("twin.yaml", GOOD);
        assert!(all.look() && !all.look());
        let news: Vec<String> = all.news().into_iter().map(|event| event.message).collect();
        assert_eq!(news.len(), 2);
        assert!(
            news[0].contains("bad.yaml") && news[0].contains("spec.containerz: there is no such field"),
            "{news:?}"
        );
        assert!(news[1].contains("web.yaml") && news[1].contains("another file"), "{news:?}");
        assert_eq!(names(&all), ["web-d1"]);
        assert_eq!(all.news(), []);

        std::fs::remove_file(dir.path().join("twin.yaml")).unwrap();
        write("web.yaml", &GOOD.replace("hello:1", "hello:2"));
        assert!(all.look());
        assert_eq!(names(&all), ["web-d1"]);
        assert_ne!(all.pods()[0].metadata.uid, uid);
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        assert!(all.look());
        assert_eq!(names(&all), Vec::<String>::new());
        assert_eq!(all.news(), [], "what is wrong with the other file was told");
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        let mut all = Manifests::new("/nonexistent/kith".into(), "d1");
        assert!(all.pods().is_empty() && all.news().is_empty());
    }
}
