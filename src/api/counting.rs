//! What a request is called where requests are counted. It only names; the words are the program's
//! own, so that nobody can make up new ones by asking.

use hyper::Method;

use super::ask::Query;
use super::route::Route;
use super::stream;

/// Verb and resource of a request.
pub(super) fn labels(route: Option<&Route>, method: &Method, query: Option<&str>) -> (&'static str, &'static str) {
    let (resource, collection) = match route {
        None => ("none", false),
        Some(Route::Objects(target)) if stream::SUBRESOURCES.contains(&target.subresource.as_str()) => {
            return ("connect", target.kind.plural);
        }
        Some(Route::Objects(target)) => (target.kind.plural, target.name.is_empty()),
        Some(Route::Metrics(_)) => ("metrics", true),
        Some(Route::Extra) => ("kith", false),
        Some(_) => ("discovery", false),
    };
    let watches = || query.is_some_and(|query| Query::parse(query).flag("watch"));
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ if collection && watches() => "watch",
        _ if collection => "list",
        _ => "get",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_called_as_kubernetes_calls_them() {
        let of = |method: Method, path: &str| {
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            labels(Route::parse(path).as_ref(), &method, query)
        };
        assert_eq!(of(Method::GET, "/api/v1/pods?watch=true"), ("watch", "pods"));
        assert_eq!(of(Method::GET, "/api/v1/namespaces/a/pods/b?watch=1"), ("get", "pods"));
        assert_eq!(of(Method::GET, "/api/v1/pods"), ("list", "pods"));
        assert_eq!(of(Method::POST, "/api/v1/namespaces/a/pods/b/exec"), ("connect", "pods"));
        assert_eq!(of(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments"), ("deletecollection", "deployments"));
        assert_eq!(of(Method::PUT, "/apis/apps/v1/namespaces/a/deployments/b/scale"), ("update", "deployments"));
        assert_eq!(of(Method::GET, "/kith/v1/status"), ("get", "kith"));
        assert_eq!(of(Method::from_bytes(b"BREW").unwrap(), "/coffee"), ("get", "none"));
    }
}
