//! Interfaces as a server's own configuration files describe them, for images of servers that
//! cannot be asked: Debian's `interfaces`, systemd-networkd, netplan and NetworkManager. What a
//! file says in other ways than the common ones is not found; an inventory file can add it.

use relevo_wire::inventory::{Interface, Inventory, Route};

/// Adds what Debian's interfaces(5) says.
pub fn debian(text: &str, inventory: &mut Inventory) {
    let mut current: Option<String> = None;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match (words.as_slice(), current.as_deref()) {
            (["iface", name, ..], _) => {
                current = (*name != "lo").then(|| (*name).to_string());
                if let Some(name) = &current {
                    interface(inventory, name);
                }
            }
            (["auto" | "mapping" | "source" | "source-directory", ..], _) => current = None,
            ([word, ..], _) if word.starts_with("allow-") => current = None,
            (["address", address], Some(name)) => {
                let at = interface(inventory, name);
                at.addresses.push((*address).into());
            }
            (["netmask", mask], Some(name)) => {
                let prefix = mask.parse::<std::net::Ipv4Addr>().map_or_else(
                    |_| (*mask).to_string(),
                    |mask| u32::from(mask).count_ones().to_string(),
                );
                if let Some(last) = interface(inventory, name).addresses.last_mut()
                    && !last.contains('/')
                {
                    *last = format!("{last}/{prefix}");
                }
            }
            (["gateway", gateway], Some(name)) => route(inventory, name, "default", gateway),
            (["hwaddress", rest @ ..], Some(name)) => {
                if let Some(mac) = rest.last() {
                    interface(inventory, name).mac = mac.to_lowercase();
                }
            }
            (["mtu", mtu], Some(name)) => {
                interface(inventory, name).mtu = mtu.parse().unwrap_or(0);
            }
            (["dns-nameservers" | "dns-nameserver", servers @ ..], Some(_)) => {
                add(&mut inventory.dns_servers, servers.iter().copied());
            }
            (["dns-search" | "dns-domain", domains @ ..], Some(_)) => {
                add(&mut inventory.dns_search, domains.iter().copied());
            }
            _ => {}
        }
    }
}

/// Adds what a systemd.network(5) file says.
pub fn networkd(text: &str, inventory: &mut Inventory) {
    let sections = ini(text);
    let value = |section: &str, key: &str| {
        let mut of = sections.iter().filter(|(name, ..)| name == section);
        of.find_map(|(_, values)| Some(values.iter().find(|(k, _)| k == key)?.1.clone()))
    };
    // A pattern such as `en*` is kept as it is: it names the interface for people.
    let Some(name) = value("Match", "Name").filter(|name| name != "lo") else {
        return;
    };
    let at = interface(inventory, &name);
    if let Some(mac) = value("Match", "MACAddress").or(value("Link", "MACAddress")) {
        at.mac = mac.to_lowercase();
    }
    if let Some(mtu) = value("Link", "MTUBytes").and_then(|mtu| mtu.parse().ok()) {
        at.mtu = mtu;
    }
    for (section, values) in &sections {
        let mut destination = "default";
        for (key, value) in values {
            match (section.as_str(), key.as_str()) {
                ("Network" | "Address", "Address") => {
                    interface(inventory, &name).addresses.push(value.clone());
                }
                ("Route", "Destination") => destination = value,
                ("Network", "DNS") => add(&mut inventory.dns_servers, value.split_whitespace()),
                ("Network", "Domains") => add(&mut inventory.dns_search, value.split_whitespace()),
                _ => {}
            }
        }
        for (_, gateway) in values.iter().filter(|(key, _)| key == "Gateway") {
            if matches!(section.as_str(), "Network" | "Route") {
                route(inventory, &name, destination, gateway);
            }
        }
    }
}

/// Adds what a NetworkManager keyfile (nm-settings-keyfile(5)) says.
pub fn network_manager(text: &str, inventory: &mut Inventory) {
    let sections = ini(text);
    let value = |section: &str, key: &str| {
        let mut of = sections.iter().filter(|(name, ..)| name == section);
        of.find_map(|(_, values)| Some(values.iter().find(|(k, _)| k == key)?.1.clone()))
    };
    let Some(name) = value("connection", "interface-name").or(value("connection", "id")) else {
        return;
    };
    let at = interface(inventory, &name);
    for section in ["ethernet", "802-3-ethernet"] {
        if let Some(mac) = value(section, "mac-address") {
            at.mac = mac.to_lowercase();
        }
        if let Some(mtu) = value(section, "mtu").and_then(|mtu| mtu.parse().ok()) {
            at.mtu = mtu;
        }
    }
    for (section, values) in &sections {
        if !matches!(section.as_str(), "ipv4" | "ipv6") {
            continue;
        }
        for (key, value) in values {
            let mut parts = value.split(',').map(str::trim);
            let (first, second) = (parts.next().unwrap_or_default(), parts.next());
            let numbered = key.trim_end_matches(|c: char| c.is_ascii_digit());
            match numbered {
                "address" => {
                    interface(inventory, &name).addresses.push(first.into());
                    if let Some(gateway) = second {
                        route(inventory, &name, "default", gateway);
                    }
                }
                "gateway" => route(inventory, &name, "default", value),
                "route" => {
                    if let Some(gateway) = second {
                        route(inventory, &name, first, gateway);
                    }
                }
                "dns" => add(&mut inventory.dns_servers, value.split(';')),
                "dns-search" => add(&mut inventory.dns_search, value.split(';')),
                _ => {}
            }
        }
    }
}

/// Adds what a netplan file says, as far as it is written in the usual block style.
pub fn netplan(text: &str, inventory: &mut Inventory) {
    let mut to = String::from("default");
    for (path, value) in yaml(text) {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        let [
            "network",
            "ethernets" | "bonds" | "bridges" | "vlans",
            name,
            rest @ ..,
        ] = path.as_slice()
        else {
            continue;
        };
        let at = interface(inventory, name);
        match rest {
            ["addresses"] => at.addresses.push(value),
            ["match", "macaddress"] | ["macaddress"] => at.mac = value.to_lowercase(),
            ["mtu"] => at.mtu = value.parse().unwrap_or(0),
            ["gateway4" | "gateway6"] => route(inventory, name, "default", &value),
            ["routes", "to"] => {
                to = if matches!(value.as_str(), "0.0.0.0/0" | "::/0") {
                    "default".into()
                } else {
                    value
                };
            }
            ["routes", "via"] => route(inventory, name, &to, &value),
            ["nameservers", "addresses"] => add(&mut inventory.dns_servers, [value.as_str()]),
            ["nameservers", "search"] => add(&mut inventory.dns_search, [value.as_str()]),
            _ => {}
        }
    }
}

/// Takes MAC addresses from udev's rules that bind names to them.
pub fn udev_names(rules: &str, inventory: &mut Inventory) {
    for line in rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        let quoted = |key: &str| {
            let rest = line.split_once(key)?.1;
            Some(rest.split('"').nth(1)?.to_string())
        };
        // The last NAME= assigns; KERNEL== and the like only match.
        let name = line
            .rsplit_once("NAME=\"")
            .and_then(|(_, r)| r.split('"').next());
        if let (Some(mac), Some(name)) = (quoted("ATTR{address}=="), name) {
            let known = inventory.interfaces.iter_mut().find(|i| i.name == name);
            if let Some(interface) = known.filter(|i| i.mac.is_empty()) {
                interface.mac = mac.to_lowercase();
            }
        }
    }
}

fn interface<'a>(inventory: &'a mut Inventory, name: &str) -> &'a mut Interface {
    let interfaces = &mut inventory.interfaces;
    let at = interfaces.iter().position(|i| i.name == name);
    let at = at.unwrap_or_else(|| {
        interfaces.push(Interface {
            name: name.into(),
            ..Interface::default()
        });
        interfaces.len() - 1
    });
    &mut interfaces[at]
}

fn route(inventory: &mut Inventory, interface: &str, destination: &str, gateway: &str) {
    inventory.routes.push(Route {
        destination: destination.into(),
        gateway: Some(gateway.into()),
        interface: interface.into(),
    });
}

fn add<'a>(list: &mut Vec<String>, values: impl IntoIterator<Item = &'a str>) {
    for value in values {
        let value = value.trim();
        if !value.is_empty() && !list.iter().any(|known| known == value) {
            list.push(value.into());
        }
    }
}

/// Keys above a scalar; netplan has no more than six.
const MAX_DEPTH: usize = 8;

type Section = (String, Vec<(String, String)>);

fn ini(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            sections.push((name.into(), Vec::new()));
        } else if let (Some((key, value)), Some((_, values))) =
            (line.split_once('='), sections.last_mut())
        {
            values.push((key.trim().into(), value.trim().into()));
        }
    }
    sections
}

/// Scalars with the keys above them. Lists lose their order only against other keys; flow lists
/// (`[a, b]`) are split; anchors, multi-line scalars and flow maps are not understood.
fn yaml(text: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut keys: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let mut rest = line.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        let mut indent = line.len() - rest.len();
        let mut in_list = false;
        while let Some(item) = rest.strip_prefix("- ") {
            let trimmed = item.trim_start();
            indent += rest.len() - trimmed.len();
            rest = trimmed;
            in_list = true;
        }
        let entry = rest
            .split_once(':')
            .filter(|(_, value)| value.is_empty() || value.starts_with(' '));
        match entry {
            Some((key, value)) => {
                keys.retain(|(at, _)| *at < indent);
                let key = key.trim_matches(['"', '\'']).to_string();
                keys.push((indent, key));
                push_scalars(&mut found, &keys, value.trim());
            }
            // The item of a list may stand at its key's own indent.
            None if in_list => {
                keys.retain(|(at, _)| *at < indent);
                push_scalars(&mut found, &keys, rest);
            }
            None => {}
        }
    }
    found
}

fn push_scalars(found: &mut Vec<(Vec<String>, String)>, keys: &[(usize, String)], value: &str) {
    // Deep keys over long lists would multiply into more memory than there is.
    if keys.len() > MAX_DEPTH {
        return;
    }
    let value = value
        .strip_prefix('[')
        .and_then(|v| v.strip_suffix(']'))
        .unwrap_or(value);
    let path: Vec<_> = keys.iter().map(|(_, key)| key.clone()).collect();
    for part in value.split(", ") {
        let part = part.trim().trim_matches(['"', '\'', ',']);
        if !part.is_empty() {
            found.push((path.clone(), part.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The same server said in four ways must come out the same.
    fn check(fill: impl FnOnce(&mut Inventory)) {
        let mut found = Inventory::default();
        fill(&mut found);
        assert_eq!(found.interfaces.len(), 1);
        let eth0 = &found.interfaces[0];
        assert_eq!(eth0.name, "eth0");
        assert_eq!(eth0.mac, "52:54:00:ab:cd:ef");
        assert_eq!(eth0.addresses, ["10.1.2.3/24"]);
        assert_eq!(found.routes.len(), 1);
        assert_eq!(found.routes[0].destination, "default");
        assert_eq!(found.routes[0].gateway.as_deref(), Some("10.1.2.1"));
        assert_eq!(found.dns_servers, ["10.1.2.53", "10.1.2.54"]);
        assert_eq!(found.dns_search, ["a.example"]);
    }

    #[test]
    fn debian_interfaces() {
        check(|i| {
            debian(
                "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n  \
                 address 10.1.2.3\n  netmask 255.255.255.0\n  gateway 10.1.2.1\n  \
                 hwaddress ether 52:54:00:AB:CD:EF\n  dns-nameservers 10.1.2.53 10.1.2.54\n  \
                 dns-search a.example\n",
                i,
            );
        });
    }

    #[test]
    fn systemd_networkd() {
        check(|i| {
            networkd(
                "[Match]\nName=eth0\nMACAddress=52:54:00:ab:cd:ef\n[Network]\nDNS=10.1.2.53\n\
                 DNS=10.1.2.54\nDomains=a.example\n[Address]\nAddress=10.1.2.3/24\n\
                 [Route]\nGateway=10.1.2.1\n",
                i,
            );
        });
    }

    #[test]
    fn network_manager_keyfile() {
        check(|i| {
            network_manager(
                "[connection]\nid=Wired\ninterface-name=eth0\n[ethernet]\n\
                 mac-address=52:54:00:AB:CD:EF\n[ipv4]\naddress1=10.1.2.3/24,10.1.2.1\n\
                 dns=10.1.2.53;10.1.2.54;\ndns-search=a.example;\nmethod=manual\n",
                i,
            );
        });
    }

    #[test]
    fn netplan_yaml() {
        check(|i| {
            netplan(
                "network:\n  version: 2\n  ethernets:\n    eth0:\n      match:\n        \
                 macaddress: \"52:54:00:ab:cd:ef\"\n      addresses:\n      - 10.1.2.3/24\n      \
                 routes:\n        - to: default\n          via: 10.1.2.1\n      nameservers:\n        \
                 addresses: [10.1.2.53, 10.1.2.54]\n        search:\n          - a.example\n",
                i,
            );
        });
    }

    /// Guards against a small file that takes gigabytes.
    #[test]
    fn deep_keys_are_not_multiplied() {
        let mut text: String = (0..500).map(|n| format!("{:n$}k:\n", "")).collect();
        text.push_str(&format!("{:500}k: [{}]\n", "", "a, ".repeat(20_000)));
        assert_eq!(yaml(&text), []);
    }

    #[test]
    fn udev_rules_bind_addresses_to_names() {
        let mut found = Inventory::default();
        debian("iface eth0 inet dhcp\n", &mut found);
        udev_names(
            "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:AA:BB:CC\", KERNEL==\"eth*\", NAME=\"eth0\"",
            &mut found,
        );
        assert_eq!(found.interfaces[0].mac, "52:54:00:aa:bb:cc");
    }
}
