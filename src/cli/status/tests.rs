//! Situations in text: what was seen of a fleet, and the screen that `kith status` makes of it. A
//! line that begins with `|` is a line of the screen.

mod script;

use script::situation;

use super::*;

#[test]
fn three_healthy_devices() {
    situation(
        "
        seen by d1 | leader d2
        d1 votes pods=2
        d2 votes pods=1
        d3 votes
        | Fleet    f-1 (3 devices, all ready)
        | Leader   d2 (term 3)
        | Voters   d1, d2, d3: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  d1, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND   PODS
        | d1       yes     voter    this device   0        2
        | d2       yes     leader   now           -        1
        | d3       yes     voter    now           0        0
        |
        | Nothing is wrong.
        ",
    );
}

#[test]
fn one_device_alone() {
    situation(
        "
        seen by d1 | leader d1
        d1 votes pods=2
        | Fleet    f-1 (1 device, all ready)
        | Leader   d1 (term 3)
        | Voters   d1: one device votes alone; three make a fleet that survives the loss
        |          of one: kith token create
        | Seen by  d1, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND   PODS
        | d1       yes     leader   this device   -        2
        |
        | Nothing is wrong.
        ",
    );
}

#[test]
fn two_devices_and_why_one_votes() {
    situation(
        "
        seen by d2 | leader d1
        d1 votes pods=2
        d2 learner pods=1 bench=it is ready to take the place of a voter
        | Fleet    f-1 (2 devices, all ready)
        | Leader   d1 (term 3)
        | Voters   d1: two devices can not outvote each other, so one votes: the fleet
        |          stops with it. A third device makes three votes (kith token create),
        |          and so does a witness that runs nothing (kith token create --witness)
        | Seen by  d2, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE      HEARD         BEHIND   PODS
        | d1       yes     leader    now           -        2
        | d2       yes     learner   this device   0        1
        |
        | Without a vote:
        |   d2: it is ready to take the place of a voter
        |
        | Nothing is wrong.
        ",
    );
}

#[test]
fn two_devices_and_a_witness() {
    situation(
        "
        seen by d1 | leader d1
        d1 votes pods=2
        d2 votes pods=1
        w votes witness
        | Fleet    f-1 (3 devices, all ready)
        | Leader   d1 (term 3)
        | Voters   d1, d2, w: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  d1, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE      HEARD         BEHIND   PODS
        | d1       yes     leader    this device   -        2
        | d2       yes     voter     now           0        1
        | w        yes     witness   now           0        -
        |
        | Nothing is wrong.
        ",
    );
}

#[test]
fn a_lost_device_without_a_successor() {
    situation(
        "
        seen by d2 | leader d2 | waits a voter is lost, and no other device is there
        d1 votes unready silent=95 behind=764/95 pods=2
        d2 votes
        d3 votes
        | Fleet    f-1 (3 devices, 2 ready)
        | Leader   d2 (term 3)
        | Voters   d1, d2, d3: 3 of 3 devices vote; the fleet works while 2 answer. Now: a
        |          voter is lost, and no other device is there
        | Seen by  d2, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND      PODS
        | d1       no      voter    95s ago       764 (95s)   2
        | d2       yes     leader   this device   -           0
        | d3       yes     voter    now           0           0
        |
        | What is wrong:
        |   - 2 of 3 voters answer: if one more is lost, writes stop
        |     do: bring back d1, or add a device that can take its vote: kith token create
        |   - d1 is lost: not heard for 95 s
        |     do: is it on and connected? If it is gone for good: kith leave --device d1
        ",
    );
}

#[test]
fn a_voter_that_is_silent_for_a_moment() {
    situation(
        "
        seen by d3 | leader d2
        d1 votes silent=4 behind=12/4
        d2 votes
        d3 votes
        d4 learner bench=it is ready to take the place of a voter
        | Fleet    f-1 (4 devices, all ready)
        | Leader   d2 (term 3)
        | Voters   d1, d2, d3: 3 of 4 devices vote; the fleet works while 2 answer
        | Seen by  d3, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE      HEARD         BEHIND    PODS
        | d1       yes     voter     4s ago        12 (4s)   0
        | d2       yes     leader    now           -         0
        | d3       yes     voter     this device   0         0
        | d4       yes     learner   now           0         0
        |
        | Without a vote:
        |   d4: it is ready to take the place of a voter
        |
        | What is wrong:
        |   - d1 has been silent for 4 s
        |     do: nothing yet: after 10 s it counts as lost, and its pods start elsewhere
        ",
    );
}

#[test]
fn no_quorum_and_what_this_device_still_knows() {
    situation(
        "
        seen by d3 | leader d2 | no quorum | age 3660
        d1 votes unready silent=3700 pods=2
        d2 votes unheard pods=3
        d3 votes pods=3
        | Fleet    f-1 (3 devices)
        | Leader   d2, but it has no quorum: reads are stale, writes fail
        | Voters   d1, d2, d3: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  d3, as it was 61m ago
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND   PODS
        | d1       ?       voter    61m ago       -        2
        | d2       ?       leader   -             -        3
        | d3       yes     voter    this device   -        3
        |
        | What is wrong:
        |   - no quorum: 1 of 3 voters answer here, 2 must. Reads come from this device's
        |     copy, writes fail
        |     do: switch on or connect one of: d1, d2. If they are gone for good:
        |         kith recover, on one device only; it says first what may be lost
        ",
    );
}

#[test]
fn started_in_the_dark() {
    situation(
        "
        seen by d3 | no quorum
        d1 votes unheard
        d2 votes unheard
        d3 votes
        | Fleet    f-1 (3 devices)
        | Leader   none: reads are stale, writes fail
        | Voters   d1, d2, d3: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  d3, as it last knew: no leader answers
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE    HEARD         BEHIND   PODS
        | d1       ?       voter   -             -        0
        | d2       ?       voter   -             -        0
        | d3       yes     voter   this device   -        0
        |
        | What is wrong:
        |   - no quorum: 1 of 3 voters answer here, 2 must. Reads come from this device's
        |     copy, writes fail
        |     do: switch on or connect one of: d1, d2. If they are gone for good:
        |         kith recover, on one device only; it says first what may be lost
        ",
    );
}

#[test]
fn an_election_is_under_way() {
    situation(
        "
        seen by d3 | leader d1 | no quorum | age 4
        d1 votes silent=4
        d2 votes
        d3 votes
        | Fleet    f-1 (3 devices)
        | Leader   d1, but it has no quorum: reads are stale, writes fail
        | Voters   d1, d2, d3: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  d3, as it was 4s ago
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND   PODS
        | d1       ?       leader   4s ago        -        0
        | d2       ?       voter    now           -        0
        | d3       yes     voter    this device   -        0
        |
        | What is wrong:
        |   - no leader is confirmed by a quorum at this moment: writes wait
        |     do: nothing yet: an election takes moments. If it stays so: are all links
        |         between the voters up?
        ",
    );
}

#[test]
fn learners_and_why_they_do_not_vote() {
    situation(
        "
        seen by d1 | leader d1 | waits three devices must be connected, steady and up to date before three can vote
        d1 votes
        d2 learner never bench=its label says kith.dev/voter=never
        d3 learner silent=40 unready bench=it was not heard for 40 s
        d4 learner behind=90000/75 bench=it is still catching up
        d5 learner bench=connected for 3 s, a voter must stay 8 s
        | Fleet    f-1 (5 devices, 4 ready)
        | Leader   d1 (term 3)
        | Voters   d1: one device votes: three devices must be connected, steady and up to
        |          date before three can vote
        | Seen by  d1, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE      HEARD         BEHIND        PODS
        | d1       yes     leader    this device   -             0
        | d2       yes     learner   now           0             0
        | d3       no      learner   40s ago       0             0
        | d4       yes     learner   now           90000 (75s)   0
        | d5       yes     learner   now           0             0
        |
        | Without a vote:
        |   d5: connected for 3 s, a voter must stay 8 s
        |   d4: it is still catching up
        |   d3: it was not heard for 40 s
        |   d2: its label says kith.dev/voter=never
        |
        | What is wrong:
        |   - d3 is lost: not heard for 40 s
        |     do: is it on and connected? If it is gone for good: kith leave --device d3
        |   - d4 is 75 s behind (90000 entries)
        |     do: nothing, if it catches up; else look at the link and at the disk of d4
        ",
    );
}

#[test]
fn zones_labels_and_a_cordoned_device() {
    situation(
        "
        seen by a1 | leader a1
        a1 votes zone=cellar prefer
        a2 votes zone=cellar cordoned
        a3 votes zone=cellar never
        b1 learner zone=attic never bench=its label says kith.dev/voter=never
        | Fleet    f-1 (4 devices, all ready)
        | Leader   a1 (term 3)
        | Voters   a1, a2, a3: 3 of 4 devices vote; the fleet works while 2 answer
        | Seen by  a1, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY           ROLE      ZONE     HEARD         BEHIND   PODS
        | a1       yes             leader    cellar   this device   -        0
        | a2       yes, cordoned   voter     cellar   now           0        0
        | a3       yes             voter     cellar   now           0        0
        | b1       yes             learner   attic    now           0        0
        |
        | Without a vote:
        |   b1: its label says kith.dev/voter=never
        |
        | What is wrong:
        |   - a3 should not vote and does: nobody can take its place
        |     do: add a device that may vote: kith token create
        |   - all votes are in zone cellar: without it the fleet stops
        |     do: let devices of other zones vote: no kith.dev/voter: never in their
        |         agent.toml, connected, up to date
        ",
    );
}

#[test]
fn a_witness_leads_for_a_moment() {
    situation(
        "
        seen by w | leader w
        d1 votes unready silent=30 behind=40/30
        d2 votes behind=3/0
        w votes witness
        | Fleet    f-1 (3 devices, 2 ready)
        | Leader   w (term 3)
        | Voters   d1, d2, w: 3 of 3 devices vote; the fleet works while 2 answer
        | Seen by  w, up to date
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD         BEHIND     PODS
        | d1       no      voter    30s ago       40 (30s)   0
        | d2       yes     voter    now           3          0
        | w        yes     leader   this device   -          -
        |
        | What is wrong:
        |   - 2 of 3 voters answer: if one more is lost, writes stop
        |     do: bring back d1, or add a device that can take its vote: kith token create
        |   - d1 is lost: not heard for 30 s
        |     do: is it on and connected? If it is gone for good: kith leave --device d1
        |   - w leads, and is a witness
        |     do: nothing: it hands over as soon as another voter is up to date
        ",
    );
}

#[test]
fn a_device_that_was_taken_off_the_list() {
    situation(
        "
        seen by d9 | leader d1 | no quorum | age 90
        d1 votes
        | Fleet    f-1 (1 device)
        | Leader   d1, but it has no quorum: reads are stale, writes fail
        | Voters   d1: one device votes alone; three make a fleet that survives the loss
        |          of one: kith token create
        | Seen by  d9, as it was 90s ago
        | State    revision 17, hash 0123456789ab
        |
        | DEVICE   READY   ROLE     HEARD   BEHIND   PODS
        | d1       ?       leader   now     -        0
        |
        | What is wrong:
        |   - d9 is no member of this fleet any more
        |     do: forget the fleet here: kith leave --force; then kith join TOKEN
        ",
    );
}

#[test]
fn thirty_devices_of_which_few_need_a_look() {
    let learners: Vec<String> = (6..=30)
        .map(|id| match id {
            9 => format!("lamp-{id} learner unready silent=600 behind=9999/600 bench=it was not heard for 600 s"),
            12 => format!("a-device-with-a-very-long-name-{id} learner behind=1/4 bench=it is still catching up"),
            _ => format!("lamp-{id} learner bench=it is ready to take the place of a voter"),
        })
        .collect();
    let voters =
        "lamp-1 votes zone=a\nlamp-2 votes zone=b\nlamp-3 votes zone=c\nlamp-4 votes zone=a\nlamp-5 votes zone=b";
    situation(&format!("seen by lamp-7 | leader lamp-2\n{voters}\n{}\n{THIRTY}", learners.join("\n")));
}

const THIRTY: &str = "
    | Fleet    f-1 (30 devices, 29 ready)
    | Leader   lamp-2 (term 3)
    | Voters   lamp-1, lamp-2, lamp-3, lamp-4, lamp-5: 5 of 30 devices vote; the fleet
    |          works while 3 answer
    | Seen by  lamp-7, up to date
    | State    revision 17, hash 0123456789ab
    |
    | DEVICE                 READY   ROLE      ZONE   HEARD     BEHIND       PODS
    | lamp-1                 yes     voter     a      now       0            0
    | lamp-2                 yes     leader    b      now       -            0
    | lamp-3                 yes     voter     c      now       0            0
    | lamp-4                 yes     voter     a      now       0            0
    | lamp-5                 yes     voter     b      now       0            0
    | lamp-9                 no      learner   -      10m ago   9999 (10m)   0
    | a-device-with-a-ve..   yes     learner   -      now       1 (4s)       0
    | and 23 learners that are ready and up to date: kith status -o wide
    |
    | Without a vote:
    |   lamp-6, lamp-7, lamp-8, lamp-10 and 19 more: it is ready to take the place of
    |     a voter
    |   a-device-with-a-ve..: it is still catching up
    |   lamp-9: it was not heard for 600 s
    |
    | What is wrong:
    |   - lamp-9 is lost: not heard for 10 min
    |     do: is it on and connected? If it is gone for good:
    |         kith leave --device lamp-9
";

#[test]
fn a_device_without_a_fleet() {
    assert!(render(&FleetStatus::default(), false, Paint::none()).contains("kith init"));
}
