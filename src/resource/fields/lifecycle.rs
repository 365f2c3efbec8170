//! The fields of probes, hooks, readiness gates and ephemeral containers, and their numbers in protobuf.

use super::pod::{ENV, ENV_FROM, SECURITY};
use super::volume::VOLUME_MOUNT;
use super::wire::{INSIDE, Message, message};
use super::{Field, Form, ok, refuse};

pub(super) static PROBE: [Field; 10] = [
    ok("exec", Form::Object(&EXEC)),
    ok("httpGet", Form::Object(&HTTP_GET)),
    ok("tcpSocket", Form::Object(&TCP_SOCKET)),
    ok("grpc", Form::Object(&GRPC)),
    ok("initialDelaySeconds", Form::Integer),
    ok("timeoutSeconds", Form::Integer),
    ok("periodSeconds", Form::Integer),
    ok("successThreshold", Form::Integer),
    ok("failureThreshold", Form::Integer),
    ok("terminationGracePeriodSeconds", Form::Integer),
];

pub(super) static LIFECYCLE: [Field; 3] =
    [ok("postStart", Form::Object(&HOOK)), ok("preStop", Form::Object(&HOOK)), ok("stopSignal", Form::Text)];

pub(super) static HOOK: [Field; 4] = [
    ok("exec", Form::Object(&EXEC)),
    ok("httpGet", Form::Object(&HTTP_GET)),
    refuse("tcpSocket", "Kubernetes never executed it; use httpGet or exec"),
    ok("sleep", Form::Object(&SLEEP)),
];

pub(super) static EXEC: [Field; 1] = [ok("command", Form::Texts)];

pub(super) static HTTP_GET: [Field; 5] = [
    ok("path", Form::Text),
    ok("port", Form::IntegerOrText),
    ok("host", Form::Text),
    ok("scheme", Form::Text),
    ok("httpHeaders", Form::Objects(&HEADER)),
];

pub(super) static HEADER: [Field; 2] = [ok("name", Form::Text), ok("value", Form::Text)];

pub(super) static TCP_SOCKET: [Field; 2] = [ok("port", Form::IntegerOrText), ok("host", Form::Text)];

pub(super) static GRPC: [Field; 2] = [ok("port", Form::Integer), ok("service", Form::Text)];

pub(super) static SLEEP: [Field; 1] = [ok("seconds", Form::Integer)];

pub(super) static GATE: [Field; 1] = [ok("conditionType", Form::Text)];

pub(super) static EPHEMERAL: [Field; 18] = [
    ok("name", Form::Text),
    ok("image", Form::Text),
    ok("targetContainerName", Form::Text),
    ok("command", Form::Texts),
    ok("args", Form::Texts),
    ok("workingDir", Form::Text),
    ok("env", Form::Objects(&ENV)),
    ok("envFrom", Form::Objects(&ENV_FROM)),
    ok("securityContext", Form::Object(&SECURITY)),
    refuse("resources", "an ephemeral container shares what its pod has"),
    ok("imagePullPolicy", Form::Text),
    ok("terminationMessagePath", Form::Text),
    ok("terminationMessagePolicy", Form::Text),
    ok("stdin", Form::Boolean),
    ok("stdinOnce", Form::Boolean),
    ok("tty", Form::Boolean),
    ok("volumeMounts", Form::Objects(&VOLUME_MOUNT)),
    refuse("volumeDevices", "block devices are not mounted in this release"),
];

pub(super) static MESSAGES: [Message; 11] = [
    message(
        &PROBE,
        &[
            (1, INSIDE),
            (2, "initialDelaySeconds"),
            (3, "timeoutSeconds"),
            (4, "periodSeconds"),
            (5, "successThreshold"),
            (6, "failureThreshold"),
            (7, "terminationGracePeriodSeconds"),
        ],
    ),
    message(&LIFECYCLE, &[(1, "postStart"), (2, "preStop"), (3, "stopSignal")]),
    message(&HOOK, &[(1, "exec"), (2, "httpGet"), (3, "tcpSocket"), (4, "sleep")]),
    message(&EXEC, &[(1, "command")]),
    message(&HTTP_GET, &[(1, "path"), (2, "port"), (3, "host"), (4, "scheme"), (5, "httpHeaders")]),
    message(&HEADER, &[(1, "name"), (2, "value")]),
    message(&TCP_SOCKET, &[(1, "port"), (2, "host")]),
    message(&GRPC, &[(1, "port"), (2, "service")]),
    message(&SLEEP, &[(1, "seconds")]),
    message(&GATE, &[(1, "conditionType")]),
    message(&EPHEMERAL, &[(1, INSIDE), (2, "targetContainerName")]),
];

/// The numbers of a message that lies inside another and whose fields stand beside the other's.
pub(super) fn inside(fields: &'static [Field]) -> &'static [(u32, &'static str)] {
    if std::ptr::eq(fields, &raw const PROBE[..]) {
        &[(1, "exec"), (2, "httpGet"), (3, "tcpSocket"), (4, "grpc")]
    } else {
        &[
            (1, "name"),
            (2, "image"),
            (3, "command"),
            (4, "args"),
            (5, "workingDir"),
            (7, "env"),
            (8, "resources"),
            (9, "volumeMounts"),
            (13, "terminationMessagePath"),
            (14, "imagePullPolicy"),
            (15, "securityContext"),
            (16, "stdin"),
            (17, "stdinOnce"),
            (18, "tty"),
            (19, "envFrom"),
            (20, "terminationMessagePolicy"),
            (21, "volumeDevices"),
        ]
    }
}
