//! Whole fleets in text: planner and reconciler together over a store in memory, with devices that
//! obey, crash, reboot and lose their peers. No clock, no thread: `pass` moves the time.
//!
//! A scenario is a script. A line that begins with `|` is what the command before it prints.
#![expect(clippy::unwrap_used, reason = "a script that can not be read fails its test")]

mod world;

use world::play;

#[test]
fn a_deployment_runs_and_scales() {
    play(
        "
        devices a b c
        deploy web 3
        show
        | a: web
        | b: web
        | c: web
        | pods 3, ready 3
        scale web 6
        show
        | a: web web
        | b: web web
        | c: web web
        | pods 6, ready 6
        delete web
        show
        | a: -
        | b: -
        | c: -
        | pods 0, ready 0
        ",
    );
}

#[test]
fn a_device_that_is_cut_off_keeps_working_and_its_copies_end_when_it_is_back() {
    play(
        "
        devices a b c
        deploy web 3
        cut c
        pass 9s
        show
        | a: web
        | b: web
        | c: web
        | pods 3, ready 3
        pass 2s
        show
        | a: web web
        | b: web
        | c: web
        | pods 4, ready 4
        pass 1h
        crash c
        pass 11s
        show c
        | c: web#1
        heal c
        show
        | a: web web
        | b: web
        | c: -
        | pods 3, ready 3
        ",
    );
}

#[test]
fn a_device_that_is_back_in_time_is_left_alone() {
    play(
        "
        devices a b
        deploy web 2
        cut b
        pass 8s
        heal b
        pass 1m
        show
        | a: web
        | b: web
        | pods 2, ready 2
        ",
    );
}

#[test]
fn a_new_leader_replaces_nothing_before_it_waited_itself() {
    play(
        "
        devices a b c
        deploy web 3
        cut c
        pass 9s
        lead
        pass 9s
        show
        | a: web
        | b: web
        | c: web
        | pods 3, ready 3
        pass 2s
        show c
        | c: web
        why
        | Pod default/web-*: device c is lost: it ends the pod when it returns; nobody else can confirm the end
        ",
    );
}

#[test]
fn a_device_reboots_in_the_dark_and_counts_on() {
    play(
        "
        devices a b c
        deploy web 3
        cut a
        reboot a
        show a
        | a: web#1
        heal a
        show
        | a: web#1
        | b: web
        | c: web
        | pods 3, ready 3
        ",
    );
}

#[test]
fn a_crash_loop_backs_off_and_says_so() {
    play(
        "
        devices a
        deploy web 1
        crash a
        show
        | a: web#1
        | pods 1, ready 1
        crash a
        show
        | a: -
        | pods 1, ready 0
        state
        | web-*: Running, web waiting CrashLoopBackOff 1, last Error 1
        pass 9s
        show a
        | a: -
        pass 2s
        show a
        | a: web#2
        crash a
        pass 19s
        show a
        | a: -
        pass 2s
        show a
        | a: web#3
        pass 11m
        crash a
        show
        | a: web#4
        | pods 1, ready 1
        ",
    );
}

#[test]
fn an_image_that_is_missing_is_said_to_be() {
    play(
        "
        devices a
        deploy web 1 image=other:1
        state
        | web-*: Pending, web waiting ImagePullBackOff 0
        import a other:1
        show
        | a: web
        | pods 1, ready 1
        ",
    );
}

#[test]
fn a_program_that_will_not_stop_is_killed_after_its_grace() {
    play(
        "
        devices a
        deploy web 1 grace=20
        stubborn a
        scale web 0
        pass 19s
        show
        | a: web
        | pods 1, ready 1
        pass 2s
        show
        | a: -
        | pods 0, ready 0
        ",
    );
}

#[test]
fn pods_that_vanished_from_the_store_are_stopped() {
    play(
        "
        devices a b
        deploy web 2
        cut b
        remove b
        show
        | a: web web
        | b: web
        | pods 2, ready 2
        heal b
        show b
        | b: -
        ",
    );
}

#[test]
fn a_rollout_replaces_every_copy() {
    play(
        "
        devices a b c
        deploy web 3
        image web web:2
        show
        | a: web
        | b: web
        | c: web
        | pods 3, ready 3
        images
        | web:2 web:2 web:2
        ",
    );
}

#[test]
fn what_does_not_fit_waits_and_says_why() {
    play(
        "
        devices a b
        deploy web 3 port=80
        show
        | a: web
        | b: web
        | pods 3, ready 2
        why
        | Pod default/web-*: 0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.
        devices c
        show
        | a: web
        | b: web
        | c: web
        | pods 3, ready 3
        ",
    );
}

#[test]
fn an_agent_that_restarts_changes_nothing() {
    play(
        "
        devices a b
        deploy web 2
        forget a
        pass 1m
        show
        | a: web
        | b: web
        | pods 2, ready 2
        ",
    );
}

#[test]
fn init_containers_come_first_and_again_after_a_reboot() {
    play(
        "
        devices a
        deploy web 1 init=setup side=log
        show
        | a: setup
        | pods 1, ready 0
        state
        | web-*: Pending, setup running 0, log waiting PodInitializing 0, web waiting PodInitializing 0
        end a setup 0
        show
        | a: log web
        | pods 1, ready 1
        end a log 1
        show
        | a: log#1 web
        | pods 1, ready 1
        reboot a
        show
        | a: setup#1
        | pods 1, ready 0
        end a setup 1
        state
        | web-*: Pending, setup waiting CrashLoopBackOff 1, last Error 1, log waiting PodInitializing 1, last Error 1, web waiting PodInitializing 0
        ",
    );
}

#[test]
fn a_rollout_waits_for_what_probes_find() {
    play(
        "
        devices a b
        deploy web 2 probe=ready
        show
        | a: web
        | b: web
        | pods 2, ready 0
        ready a web
        ready b web
        image web web:2
        pass 1h
        images
        | web:1 web:1 web:2
        unready a web
        pass 1h
        images
        | web:1 web:1 web:2
        ready a web
        ready b web
        ready a web
        ready b web
        images
        | web:2 web:2
        ",
    );
}

#[test]
fn an_agent_that_restarts_keeps_what_is_ready() {
    play(
        "
        devices a
        deploy web 1 probe=ready
        ready a web
        forget a
        pass 1m
        show
        | a: web
        | pods 1, ready 1
        ",
    );
}

#[test]
fn a_pod_that_must_not_run_twice_is_ended_before_another_begins() {
    play(
        "
        devices a
        deploy one 1 stop-after=1m grace=10
        devices b
        show
        | a: one
        | b: -
        | pods 1, ready 1
        cut a
        pass 59s
        show
        | a: one
        | b: -
        | pods 1, ready 0
        pass 1s
        show
        | a: -
        | b: -
        | pods 1, ready 0
        why
        | Pod default/one-*: device a is lost, and stops the pod by itself: nothing takes its place before that is sure
        pass 25s
        show
        | a: -
        | b: -
        | pods 1, ready 0
        pass 1s
        show
        | a: -
        | b: one
        | pods 2, ready 1
        heal a
        show
        | a: -
        | b: one
        | pods 1, ready 1
        ",
    );
}

#[test]
fn a_pod_that_was_ended_begins_again_when_its_device_is_back_in_time() {
    play(
        "
        devices a
        deploy one 1 stop-after=30s grace=10
        devices b
        cut a
        pass 35s
        show a
        | a: -
        heal a
        show
        | a: one#1
        | b: -
        | pods 1, ready 1
        state
        | one-*: Running, one running 1
        pass 5m
        show
        | a: one#1
        | b: -
        | pods 1, ready 1
        ",
    );
}

#[test]
fn a_program_that_will_not_stop_is_killed_before_another_begins() {
    play(
        "
        devices a
        deploy one 1 stop-after=30s grace=20 side=proxy
        devices b
        stubborn a
        cut a
        pass 31s
        show a
        | a: one proxy
        pass 19s
        show a
        | a: proxy
        pass 3s
        show a
        | a: -
        pass 1m
        show
        | a: -
        | b: one proxy
        | pods 2, ready 1
        ",
    );
}

#[test]
fn what_must_not_run_twice_waits_for_a_quorum_after_a_reboot_in_the_dark() {
    play(
        "
        devices a
        deploy one 1 stop-after=1m grace=5
        devices b c
        deploy web 3
        cut a
        reboot a
        show a
        | a: web#1
        pass 5s
        heal a
        show a
        | a: one#1 web#1
        cut a
        pass 20s
        forget a
        pass 39s
        show a
        | a: one#1 web#1
        pass 1s
        show a
        | a: web#1
        ",
    );
}

#[test]
fn a_new_leader_and_a_rollout_wait_for_the_end_too() {
    play(
        "
        devices a
        deploy one 1 stop-after=30s grace=0
        devices b
        cut a
        pass 45s
        lead
        pass 45s
        show b
        | b: -
        pass 1s
        show
        | a: -
        | b: one
        | pods 2, ready 1
        heal a
        cut b
        pass 5s
        image one web:2
        pass 30s
        show
        | a: -
        | b: -
        | pods 1, ready 1
        pass 30s
        show
        | a: one
        | b: -
        | pods 2, ready 2
        ",
    );
}
