//! Manifests as `-f` names them: files, folders, and `-` for standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::failure::{Code, Doing, Failure};
use super::target::{Namespace, Target, name_of};
use crate::resource::{kind, manifest};

/// An object and where it goes.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) target: Target,
    /// `None` for kinds that have no namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) object: Value,
}

/// The text of everything that is named, with the name for messages.
pub(crate) fn texts(named: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for path in named {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).doing(|| "read standard input".into())?;
            texts.push(("standard input".to_owned(), text));
            continue;
        }
        for file in files(path)? {
            let name = file.display().to_string();
            let text = fs::read_to_string(&file).doing(|| format!("read {name}"))?;
            texts.push((name, text));
        }
    }
    Ok(texts)
}

/// The objects of everything that is named: namespaces first, else in the order of names and files.
pub(crate) fn read(named: &[PathBuf], namespace: &Namespace) -> Result<Vec<Manifest>, Failure> {
    let mut found = Vec::new();
    for (file, text) in texts(named)? {
        let objects = manifest::parse(&text, &file).map_err(|e| Failure::of(Code::Failed, &e))?;
        for object in objects {
            found.push(place(object, &file, namespace)?);
        }
    }
    if found.is_empty() {
        return Err(Failure::failed("no object was found in what -f names"));
    }
    found.sort_by_key(|manifest| manifest.target.kind != &kind::NAMESPACE);
    Ok(found)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !fs::metadata(path).doing(|| format!("read {}", path.display()))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).doing(|| format!("list {}", path.display()))?;
    let is_manifest =
        |path: &PathBuf| path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::failed(format!("there is no .yaml, .yml or .json file in {}", path.display())));
    }
    Ok(files)
}

fn place(mut object: Value, file: &str, asked: &Namespace) -> Result<Manifest, Failure> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    let Some(kind) = kind::of(version, name) else {
        let known: Vec<_> = kind::all().iter().map(|kind| format!("{} {}", kind.api_version(), kind.kind)).collect();
        return Err(Failure::new(Code::Refused, format!("{file}: the fleet knows no kind {name} in {version}"))
            .hint(format!("it knows {}", known.join(", "))));
    };
    if name_of(&object).is_empty() {
        return Err(Failure::new(Code::Refused, format!("{file}: a {name} has no metadata.name")));
    }
    let mut namespace = None;
    if kind.namespaced {
        let own = object["metadata"]["namespace"].as_str().filter(|own| !own.is_empty());
        if let (Some(own), Some(asked)) = (own, &asked.namespace)
            && own != asked
        {
            return Err(Failure::usage(format!(
                "{file}: {name} {} is of namespace {own}, and -n asks for {asked}",
                name_of(&object)
            )));
        }
        let chosen = own.unwrap_or_else(|| asked.name()).to_owned();
        object["metadata"]["namespace"] = Value::from(chosen.as_str());
        namespace = Some(chosen);
    }
    let target = Target { kind, name: Some(name_of(&object).to_owned()) };
    Ok(Manifest { target, namespace, object })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_with_namespaces_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
        write(
            "a.yml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
        );
        write("notes.txt", "not a manifest");
        let found = read(&[dir.path().to_owned()], &Namespace::default()).unwrap();
        let paths: Vec<_> = found.iter().map(|m| m.target.path(m.namespace.as_deref())).collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/shop",
                "/apis/apps/v1/namespaces/shop/deployments/web",
                "/api/v1/namespaces/default/configmaps/c"
            ]
        );
    }

    #[test]
    fn a_wrong_place_or_kind_is_refused_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.yaml");
        let other = Namespace { namespace: Some("other".into()) };
        for (text, asked, part) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\n", other, "-n asks for other"),
            ("apiVersion: v9\nkind: Pod\nmetadata: {name: a}\n", Namespace::default(), "no kind Pod in v9"),
            ("apiVersion: v1\nkind: Pod\n", Namespace::default(), "metadata.name"),
        ] {
            fs::write(&file, text).unwrap();
            let message = read(std::slice::from_ref(&file), &asked).unwrap_err().text();
            assert!(message.contains(part) && message.contains("x.yaml"), "{message}");
        }
    }
}
