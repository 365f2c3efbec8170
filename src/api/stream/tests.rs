use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

#[test]
fn the_first_protocol_that_is_known_is_taken() {
    let agreed = |pairs: &[(&'static str, &str)], forwards| {
        agree(&headers(pairs), forwards).map(|agreement| (agreement.carrier, agreement.protocol)).map_err(|f| f.code)
    };
    let mut spdy = headers(&[("upgrade", "SPDY/3.1"), ("connection", "Upgrade")]);
    for name in ["v9.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"] {
        spdy.append("x-stream-protocol-version", name.parse().unwrap());
    }
    assert_eq!(agree(&spdy, false).unwrap().protocol, "v4.channel.k8s.io");
    assert_eq!(agree(&spdy, true).err().unwrap().code, 403);
    assert_eq!(agreed(&[("upgrade", "SPDY/3.1")], true), Ok((Carrier::Spdy, String::new())));
    let socket =
        |protocols| [("upgrade", "websocket"), ("sec-websocket-key", "k"), ("sec-websocket-protocol", protocols)];
    let channels = |halves, name: &str| Ok((Carrier::Channels { halves }, name.to_owned()));
    assert_eq!(agreed(&socket("v5.channel.k8s.io, v4.channel.k8s.io"), false), channels(true, "v5.channel.k8s.io"));
    assert_eq!(agreed(&socket("base64.channel.k8s.io,v4.channel.k8s.io"), true), channels(false, "v4.channel.k8s.io"));
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    assert_eq!(agreed(&socket(tunnel), true), Ok((Carrier::Tunnel, tunnel.to_owned())));
    assert_eq!(agreed(&socket(tunnel), false), Err(403));
    assert_eq!(agreed(&[("upgrade", "websocket")], false), Err(400));
    assert_eq!(agreed(&[], false), Err(400));
}

#[test]
fn frames_of_any_bytes_do_no_harm() {
    for (_, seed) in seeds() {
        fuzz(&seed);
        for cut in 0..seed.len() {
            fuzz(&seed[..cut]);
            let mut broken = seed.clone();
            broken[cut] ^= 0x55;
            fuzz(&broken);
        }
    }
}
