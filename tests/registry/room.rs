//! What stays when room is made, and what goes.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use kith::images::{Image, Scope};

use crate::place::{Place, name};

const WEB: &str = "default/Deployment/web";

/// Another image under the name `app:1`.
fn app(place: &Place, text: &str) -> Image {
    let made = place.image(text, 100_000);
    let archive = place.path("app.tar");
    place.store.save(std::slice::from_ref(&made.name), &archive, kith::images::Format::Oci).unwrap();
    let image = place.store.load(&archive, Some(&name("app:1"))).unwrap().remove(0);
    place.store.remove(&made.name).unwrap();
    image
}

fn here(place: &Place, image: &Image) -> bool {
    let by_digest = name(&format!("app@{}", image.digest));
    place.store.resolve(&by_digest).unwrap().is_some_and(|found| place.store.unpack(&found).is_ok())
}

#[test]
fn what_ran_last_and_before_stays_when_its_name_moves_on() {
    let place = Place::new();
    let one = app(&place, "one");
    place.store.note_ran(WEB, "c", &one.digest).unwrap();
    let never = app(&place, "never-ran");
    assert!(here(&place, &one), "the last good image went with its name");
    let two = app(&place, "two");
    assert!(!here(&place, &never), "an image that never ran stays though its name moved on");
    place.store.note_ran(WEB, "c", &two.digest).unwrap();
    let three = app(&place, "three");
    place.store.note_ran(WEB, "c", &three.digest).unwrap();
    place.store.note_ran(WEB, "c", &three.digest).unwrap();
    app(&place, "four");
    assert_eq!([&one, &two, &three].map(|image| here(&place, image)), [false, true, true]);
    // Whoever removes it by name means it.
    place.store.remove(&name(&format!("app@{}", two.digest))).unwrap();
    assert!(!here(&place, &two));
}

#[test]
fn the_longest_unused_goes_first_and_what_is_needed_never() {
    let place = Place::new();
    let images: Vec<Image> =
        ["oldest", "older", "wanted", "ran", "elsewhere", "young"].map(|text| place.image(text, 1 << 20)).into();
    for (age, image) in images.iter().rev().enumerate() {
        let blob = place.path("images/blobs/sha256").join(image.digest.hex());
        let used = SystemTime::now() - Duration::from_secs(1000 * (age as u64 + 1));
        std::fs::File::open(blob).unwrap().set_modified(used).unwrap();
        place.store.unpack(image).unwrap();
    }
    place.store.note_ran(WEB, "c", &images[3].digest).unwrap();
    place.store.note_ran("default/Deployment/gone", "c", &images[4].digest).unwrap();
    let scope = Scope { images: BTreeSet::from([name("wanted")]), workloads: Some(BTreeSet::from([WEB.to_owned()])) };
    let shown = |cleared: &kith::images::Cleared| {
        cleared.images.iter().map(|image| image.repository().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let before = place.store.size();
    let all = place.store.make_room(u64::MAX, &scope, true).unwrap();
    assert!(shown(&all).starts_with("oldest older") && shown(&all).contains("young"), "{}", shown(&all));
    assert!(!shown(&all).contains("wanted") && !shown(&all).contains("ran"), "{}", shown(&all));
    assert_eq!(place.store.size(), before, "a dry run touches nothing");
    // The command line does not know which workloads are here: it keeps what ran for any.
    let careful = place.store.make_room(u64::MAX, &Scope::default(), true).unwrap();
    assert!(!shown(&careful).contains("elsewhere") && shown(&careful).contains("wanted"), "{}", shown(&careful));

    let cleared = place.store.make_room(1, &scope, false).unwrap();
    assert_eq!(shown(&cleared), "oldest");
    let after = place.store.size();
    assert!(before - after >= cleared.bytes && cleared.bytes > 1 << 20, "{before} {after} {cleared:?}");
    place.store.make_room(u64::MAX, &scope, false).unwrap();
    let left: Vec<String> =
        place.store.list().unwrap().iter().map(|image| image.name.repository().to_owned()).collect();
    assert_eq!(left, ["ran", "wanted"]);
    assert_eq!(place.store.make_room(u64::MAX, &scope, false).unwrap(), kith::images::Cleared::default());
}

#[test]
fn what_a_container_runs_from_keeps_its_layers() {
    let place = Place::new();
    let image = place.image("runs", 1000);
    let layer = place.store.unpack(&image).unwrap().remove(0);
    // As a shim holds it.
    let held = std::fs::File::open(&layer).unwrap();
    held.lock_shared().unwrap();
    place.store.make_room(u64::MAX, &Scope::default(), false).unwrap();
    assert!(layer.join("noise").exists());
    drop(held);
    place.store.make_room(u64::MAX, &Scope::default(), false).unwrap();
    assert!(!layer.exists());
}
