//! Who may do what. Kith has three kinds of askers beside strangers: administrators (the group
//! `system:masters`, and root on the socket), devices, and everyone else with a certificate of the
//! fleet. It decides from the route and the verb alone; it never looks at an object.

use hyper::Method;

use super::User;
use super::failure::Failure;
use super::route::{Route, Target};
use super::secret::is_secret;
use super::stream::SUBRESOURCES;

/// The group whose members may do everything.
pub const ADMINISTRATORS: &str = "system:masters";

/// The group that every device is in, and no user may use.
const DEVICES: &str = "system:nodes";

impl User {
    /// Whether this is an administrator of the fleet.
    pub fn is_administrator(&self) -> bool {
        self.is_in(ADMINISTRATORS)
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// Whether a user may do this. What is behind `/kith/` decides for itself about users.
pub(super) fn check(user: &User, method: &Method, route: &Route) -> Result<(), Failure> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if matches!(route, Route::Version | Route::Health) {
        return Ok(());
    }
    if user.is_anonymous() {
        let message = "a client certificate of this fleet is needed: see `kith kubeconfig`";
        return Err(Failure::new(401, "Unauthorized", message));
    }
    if matches!(route, Route::Blobs) {
        let why = "layers of images are given to devices, for their pods";
        return if user.is_in(DEVICES) && reads { Ok(()) } else { Err(refused(user, method, route, why)) };
    }
    if user.is_administrator() {
        return Ok(());
    }
    if user.is_in(DEVICES) {
        // Devices carry their own writes to the leader by another way; here they only pass on
        // what somebody asked of them and only this device has.
        let log = matches!(route, Route::Objects(target) if target.subresource == "log");
        let metrics = matches!(route, Route::Metrics(_));
        return if ((log || metrics) && reads) || is_stream(route) {
            Ok(())
        } else {
            Err(refused(
                user,
                method,
                route,
                "a device may only read logs and metrics, and carry streams to pods, here",
            ))
        };
    }
    match route {
        Route::Extra => Ok(()),
        Route::Objects(target) if is_secret(target.kind) => {
            Err(refused(user, method, route, "only users of the group system:masters may see secrets"))
        }
        _ if reads && !is_stream(route) => Ok(()),
        _ => {
            let why = "users outside of the group system:masters may only read; an administrator's kubeconfig comes \
                       from `kith kubeconfig` on a device";
            Err(refused(user, method, route, why))
        }
    }
}

/// Whether this leads into a pod: whatever the method, it is more than reading.
fn is_stream(route: &Route) -> bool {
    matches!(route, Route::Objects(target) if SUBRESOURCES.contains(&target.subresource.as_str()))
}

fn refused(user: &User, method: &Method, route: &Route, why: &str) -> Failure {
    let name = &user.name;
    let Route::Objects(Target { kind, namespace, name: object, subresource }) = route else {
        return Failure::new(403, "Forbidden", format!("User {name:?} cannot {method} this path: {why}"));
    };
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if object.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ if object.is_empty() => "list",
        _ => "get",
    };
    let resource =
        if subresource.is_empty() { kind.plural.to_owned() } else { format!("{}/{subresource}", kind.plural) };
    let place =
        if namespace.is_empty() { "at the cluster scope".into() } else { format!("in the namespace {namespace:?}") };
    let group = kind.group;
    let what = format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {place}: {why}");
    Failure::forbidden(kind, object, &what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(groups: &[&str]) -> User {
        User { name: "jane".into(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    fn code(user: &User, method: &Method, path: &str) -> u16 {
        let route = Route::parse(path).unwrap();
        check(user, method, &route).map_or_else(|failure| failure.code, |()| 200)
    }

    const PODS: &str = "/api/v1/namespaces/default/pods";
    const WRITES: [Method; 4] = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

    #[test]
    fn secrets_are_for_administrators() {
        let path = "/api/v1/namespaces/default/secrets";
        assert_eq!(code(&user(&[ADMINISTRATORS]), &Method::GET, path), 200);
        for other in [user(&["system:authenticated"]), User::device("d1"), user(&["viewers"])] {
            for path in [path, "/api/v1/secrets", "/api/v1/namespaces/default/secrets/a"] {
                assert_eq!(code(&other, &Method::GET, path), 403, "{path}");
            }
        }
    }

    #[test]
    fn administrators_and_root_may_do_everything() {
        for user in [User::root(), user(&[ADMINISTRATORS, "system:authenticated"])] {
            for method in WRITES.iter().chain([&Method::GET]) {
                assert_eq!(code(&user, method, PODS), 200);
                assert_eq!(code(&user, method, "/kith/v1/tokens"), 200);
            }
        }
    }

    #[test]
    fn other_users_may_only_read() {
        let jane = user(&["viewers", "system:authenticated"]);
        for method in &WRITES {
            assert_eq!(code(&jane, method, PODS), 403, "{method}");
            assert_eq!(code(&jane, method, "/apis/apps/v1/namespaces/a/deployments/b/scale"), 403, "{method}");
        }
        for path in [PODS, "/api/v1/nodes", "/api/v1/namespaces/a/pods/b/log", "/openapi/v2", "/apis"] {
            assert_eq!(code(&jane, &Method::GET, path), 200, "{path}");
        }
        let failure = check(&jane, &Method::POST, &Route::parse(PODS).unwrap()).unwrap_err();
        for part in ["jane", "create", "pods", "default", "system:masters"] {
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn devices_only_pass_on_logs() {
        let device = User::device("lamp");
        assert_eq!(code(&device, &Method::GET, "/api/v1/namespaces/a/pods/b/log"), 200);
        assert_eq!(code(&device, &Method::GET, "/version"), 200);
        for path in [PODS, "/api/v1/namespaces/a/configmaps/b", "/kith/v1/status", "/kith/v1/kubeconfig", "/openapi/v2"]
        {
            assert_eq!(code(&device, &Method::GET, path), 403, "{path}");
            assert_eq!(code(&device, &Method::POST, path), 403, "{path}");
        }
    }

    #[test]
    fn strangers_learn_the_version_and_that_it_lives() {
        let stranger = User::anonymous();
        assert_eq!(code(&stranger, &Method::GET, "/version"), 200);
        assert_eq!(code(&stranger, &Method::GET, "/readyz"), 200);
        for path in [PODS, "/api", "/apis", "/openapi/v2", "/kith/v1/status"] {
            assert_eq!(code(&stranger, &Method::GET, path), 401, "{path}");
        }
    }
}
