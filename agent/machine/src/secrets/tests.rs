use super::*;
use proptest::prelude::*;

/// What goes, and what is left of it.
const GO: &[(&str, &str)] = &[
    ("https://ghp2TOKEN@host/a b", "https://[removed:login]@host/a b"),
    ("https://u:pa,ss@host/a b", "https://[removed:login]@host/a b"),
    ("git clone https://u:p/a@s@host/x.git y", "git clone https://[removed:login]@host/x.git y"),
    ("https://u:pass", "https://[removed:login]"),
    ("ssh://root@host", "ssh://[removed:login]@host"),
    ("u:pa,ss@nas b", "[removed:login]@nas b"),
    ("proxy=u:pa=s@nas:3128 b", "proxy=[removed:login]@nas:3128 b"),
    ("token = \"\"\"ab\"c\nde\"f\"\"\" # x\nnext = 1", "token = \"\"\"[removed:value]\"\"\" # x\nnext = 1"),
    ("token = '''ab\n'cd\n'''\nnext = 1", "token = '''[removed:value]'''\nnext = 1"),
    (r#"password = "ab\"cd" # x"#, r#"password = "[removed:value]" # x"#),
    (r#"password = "ab\\" # x"#, r#"password = "[removed:value]" # x"#),
    (
        r#"msg: {"a":"{\"password\":\"x\",\"b\":1}"} end"#,
        r#"msg: {"a":"{\"password\":\"[removed:value]\",\"b\":1}"} end"#,
    ),
    (
        r#"{"m":"{\"n\":\"{\\\"token\\\":\\\"x\\\"y\\\"}\"}"}"#,
        r#"{"m":"{\"n\":\"{\\\"token\\\":[removed:value]\\\"}\"}"}"#,
    ),
    ("GET /x?sv=1&sig=abc%2B&se=2 HTTP/1.1", "GET /x?sv=1&sig=[removed:value]&se=2 HTTP/1.1"),
    (
        "https://s3/x?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&X-Amz-Date=2&X-Amz-Signature=abc123 200",
        "https://s3/x?X-Amz-Credential=[removed:value]&X-Amz-Date=2&X-Amz-Signature=[removed:value] 200",
    ),
    (
        "AccountName=n;AccountKey=ab+/==;EndpointSuffix=core",
        "AccountName=n;AccountKey=[removed:value];EndpointSuffix=core",
    ),
    ("SharedAccessSignature=sv=1&sig=x", "SharedAccessSignature=[removed:value]&sig=[removed:value]"),
    ("PresharedKey = kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC==", "PresharedKey = [removed:value]"),
    ("[wg]\nPrivateKey=abc\nPublicKey=def\n", "[wg]\nPrivateKey=[removed:value]\nPublicKey=[removed:value]\n"),
    ("key=abc", "key=[removed:value]"),
    ("ssl.key: abc", "ssl.key: [removed:value]"),
    ("KEY1=s:12345", "KEY1=[removed:value]"),
    ("wep-key0=abcde", "wep-key0=[removed:value]"),
    ("rd.luks.key=/key:UUID=1 quiet", "rd.luks.key=[removed:value]"),
    ("failback apply --token X --yes d", "failback apply --token [removed:value] --yes d"),
    ("apply --password X -o f", "apply --password [removed:value] -o f"),
    (r#"apply --password "a b" -o f"#, r#"apply --password "[removed:value]" -o f"#),
    (r#"["apply","--token","X","--yes"]"#, r#"["apply","--token","[removed:value]","--yes"]"#),
    ("[\n  \"--token\",\n  \"X\",\n  \"--yes\"\n]", "[\n  \"--token\",\n  \"[removed:value]\",\n  \"--yes\"\n]"),
    (r"['--password', 'it\'s', 'x']", "['--password', '[removed:value]', 'x']"),
    (r#""call": "apply --token abc --yes /dev/sdb","#, r#""call": "apply --token [removed:value] --yes /dev/sdb","#),
    (r#""call": "apply --password \"a b\" --yes","#, r#""call": "apply --password \"[removed:value]\" --yes","#),
    ("args: [--token, S3c31longer]", "args: [--token, [removed:value]]"),
    ("args: [--yes, --password, correct horse, x]", "args: [--yes, --password, [removed:value], x]"),
    ("[--token,\n X]", "[--token,\n [removed:value]]"),
    (r#"["--token", X]"#, r#"["--token", [removed:value]]"#),
    ("x --token ,ab,cd e", "x --token [removed:value] e"),
    ("with --token, X1 and so on", "with --token, [removed:value] and so on"),
    ("- --token\n- S3c30longer\nx", "- --token\n- [removed:value]\nx"),
    ("a:\n  - \"--token\"\n  - ab cd\n  - x", "a:\n  - \"--token\"\n  - [removed:value]\n  - x"),
    ("- --token\n- 'a b'\n- x", "- --token\n- '[removed:value]'\n- x"),
    ("--token=X y", "--token=[removed:value]"),
    ("rootpw --plaintext x", "rootpw --plaintext [removed:value]"),
    ("rootpw --iscrypted $6$a$b", "rootpw --iscrypted [removed:value]"),
    ("rootpw x --plaintext", "rootpw [removed:value]"),
    ("sshpass -p x ssh root@h", "sshpass -p [removed:value]"),
    ("user --name=a --password=x --plaintext", "user --name=a --password=[removed:value] --plaintext"),
    (r#"bootloader --append="quiet" --password=x"#, r#"bootloader --append="quiet" --password=[removed:value]"#),
    (
        "failback.sshkey=ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey me@office quiet",
        "failback.sshkey=[removed:value]",
    ),
    (
        r#"failback.sshkey="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey me" quiet"#,
        r#"failback.sshkey="[removed:value]" quiet"#,
    ),
    (
        r#""failback.sshkey=ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey you" quiet"#,
        r#""failback.sshkey=[removed:value]" quiet"#,
    ),
    (
        "failback.sshkey=AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey quiet",
        "failback.sshkey=[removed:value]",
    ),
    (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey me you\nx",
        "ssh-ed25519 [removed:ssh-key]\nx",
    ),
    ("failback.sshkey=disk quiet", "failback.sshkey=[removed:value]"),
    ("Authorization: Bearer x", "Authorization: [removed:value]"),
    ("GET x Authorization: Basic dXNlcjpwYXNz", "GET x Authorization: [removed:value]"),
    (r#"curl -H "Authorization: Bearer x" https://h"#, r#"curl -H "Authorization: [removed:value]" https://h"#),
    ("sent Bearer abc.def to it", "sent Bearer [removed:token] to it"),
    ("Cookie: a=b; c=d", "Cookie: [removed:value]"),
    ("set-cookie:a=b; c=d", "set-cookie:[removed:value]"),
    ("aws AKIAIOSFODNN7EXAMPLE x", "aws [removed:token] x"),
    (
        "aws_secret_access_key = kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC==",
        "aws_secret_access_key = [removed:value]",
    ),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc-_", "[removed:token]"),
    (
        "Nov 25 h app[1]: -----BEGIN PRIVATE KEY-----\nNov 25 h app[1]: kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC==\nNov 25 h app[1]: -----END PRIVATE KEY-----\nNov 25 h next",
        "Nov 25 h app[1]: [removed:pem]\nNov 25 h next",
    ),
    (
        "x\nNov 25 h app[1]: kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC==\nNov 25 h app[1]: ab==\nNov 25 h app[1]: -----END PRIVATE KEY-----\nnext",
        "x\n[removed:pem]\nnext",
    ),
    (
        r#""k": "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\n", "b": 1"#,
        r#""k": "[removed:pem]\n", "b": 1"#,
    ),
    ("a\n-----BEGIN PRIVATE KEY-----\nb3Blbn\n", "a\n[removed:pem]\n"),
    ("---- BEGIN SSH2 PUBLIC KEY ----\nAAA\n---- END SSH2 PUBLIC KEY ----\nb", "[removed:pem]\nb"),
    ("key kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC== x", "key [removed:value] x"),
    ("signing key: kJ8f+Ab/3mQ0vN2LxT6sYw9ZcR5uHe1pGi7oDaXlMnBqFtVjS4gWyC==", "signing key: [removed:value]"),
    (r#"token "abc def" # of"#, r#"token "[removed:value]" # of"#),
    (r#""api_key": "abc", "size": 5"#, r#""api_key": "[removed:value]", "size": 5"#),
    (r#""token": 5, "size": 5"#, r#""token": "[removed:value]", "size": 5"#),
    (r#""token": null}"#, r#""token": "[removed:value]"}"#),
    ("password: open sesame", "password: [removed:value]"),
    ("PGPASSWORD=x y=z", "PGPASSWORD=[removed:value] y=z"),
    ("psk=correct horse battery", "psk=[removed:value]"),
    ("root:$6$salt$hash:19000:0", "root:[removed:hash]:19000:0"),
    (
        "//nas/x /m cifs username=u,password=p,uid=0 0 0",
        "//nas/x /m cifs username=u,password=[removed:value],uid=0 0 0",
    ),
    (r#""passwords": ["a", "b"], "n": 1"#, r#""passwords": "[removed:value]", "n": 1"#),
    (r#"credentials = { user = "a", pw = "b" } # x"#, "credentials = [removed:value] # x"),
    ("\"credentials\": {\n \"a\": [1, \"}\"]\n},\n\"n\": 1", "\"credentials\": \"[removed:value]\",\n\"n\": 1"),
    ("password: |\n  a\n  b\nnext: 1", "password: |\n  [removed:value]\nnext: 1"),
    ("chpasswd:\n  list: |\n    root:x\n  expire: false\nnext: 1", "chpasswd:\n  [removed:value]\nnext: 1"),
    ("<password>x</password><user>u</user>", "<password>[removed:value]</password><user>u</user>"),
    (
        r#"<Property oe:key="password" oe:value="x y"/>"#,
        r#"<Property oe:key="[removed:value]" oe:value="[removed:value]"/>"#,
    ),
    (r#"{"name":"DB_PASSWORD","value":"x"}"#, r#"{"name":"DB_PASSWORD","value":"[removed:value]"}"#),
    ("1 SHA256 HEX:1DC764", "1 SHA256 [removed:value]"),
    (r#""password": "ab"#, r#""password": [removed:value]"#),
    ("password = \"ab\ncd\"\nnext = \"1\"", "password = [removed:value]\nnext = \"1\""),
    ("sed 's/password=x y/z/'", "sed 's/password=[removed:value] y/z/'"),
    (r#"log in: password=ab"cd e"#, "log in: password=[removed:value] e"),
    ("netrc: machine h login u password hunter2", "netrc: machine h login u password [removed:value]"),
    (r#"secret "abc";"#, r#"secret "[removed:value]";"#),
    ("curl -u me:pw https://h", "curl -u [removed:token] https://h"),
    (r"a\nfs#u:pw@h /m", r"a\n[removed:login]@h /m"),
    ("app[1]: 2 SHA1 HEX:ABCD", "app[1]: 2 SHA1 [removed:value]"),
    (r"pass\nkey=abc", r"pass\nkey=[removed:value]"),
    ("?password%3Dabc%26x", "?password%3D[removed:value]"),
    ("password=a&b c", "password=[removed:value]"),
    ("TOKEN:abc def", "TOKEN:[removed:value]"),
    ("    password abc\nb", "    password [removed:value]\nb"),
    (r#""Token":["x"]"#, r#""Token":"[removed:value]""#),
    (r#"d["password"] = "x""#, r#"d["password"] = "[removed:value]""#),
    ("PASSWORD+=x y", "PASSWORD+=[removed:value]"),
    ("{password: x y}", "{password: [removed:value]"),
];

/// What files and logs of a CentOS hold; every secret has `S3cret` in it.
const REAL: &[(&str, &str)] = &[
    (
        "[wifi-security]\nkey-mgmt=wpa-psk\npsk=S3cretOne phrase\nwep-key0=S3cretTwo\n[802-1x]\nidentity=me\npassword=S3cretThree\nprivate-key-password=S3cretFour\nleap-password=S3cretFive\nca-cert=/etc/pki/ca.pem\n",
        "[wifi-security]\nkey-mgmt=wpa-psk\npsk=[removed:value]\nwep-key0=[removed:value]\n[802-1x]\nidentity=me\npassword=[removed:value]\nprivate-key-password=[removed:value]\nleap-password=[removed:value]\nca-cert=/etc/pki/ca.pem\n",
    ),
    (
        "1 MD5 S3cretA\n2 SHA1 HEX:S3cretB\n10 AES128 HEX:S3cretC\n",
        "1 MD5 [removed:value]\n2 SHA1 [removed:value]\n10 AES128 [removed:value]\n",
    ),
    (
        "//srv/x /mnt cifs credentials=/root/.S3cretPath,uid=0 0 0\n//srv/y /mnt cifs user=u,pass=S3cretD,vers=3.0 0 0\ncurlftpfs#u:S3cretE@h /mnt fuse rw 0 0\nhttps://u:S3cretE2@dav/x /mnt davfs rw 0 0",
        "//srv/x /mnt cifs credentials=[removed:value],uid=0 0 0\n//srv/y /mnt cifs user=u,pass=[removed:value],vers=3.0 0 0\n[removed:login]@h /mnt fuse rw 0 0\nhttps://[removed:login]@dav/x /mnt davfs rw 0 0",
    ),
    ("username=u\npassword=S3cretF\ndomain=D", "username=u\npassword=[removed:value]\ndomain=D"),
    (
        "network={\n ssid=\"x\"\n psk=\"S3cretG h\"\n #psk=\"S3cretG2\"\n sae_password=\"S3cretG3\"\n wep_key0=\"S3cretH\"\n private_key_passwd=\"S3cretI\"\n}",
        "network={\n ssid=\"x\"\n psk=\"[removed:value]\"\n #psk=\"[removed:value]\"\n sae_password=\"[removed:value]\"\n wep_key0=\"[removed:value]\"\n private_key_passwd=\"[removed:value]\"\n}",
    ),
    (
        "DEVICE=eth0\nKEY=S3cretJ\nKEY_PASSPHRASE1=S3cretK\nWPA_PSK=S3cretL\nIEEE_8021X_PASSWORD=\"S3cretM\"\nKEY1=s:S3cretN",
        "DEVICE=eth0\nKEY=[removed:value]\nKEY_PASSPHRASE1=[removed:value]\nWPA_PSK=[removed:value]\nIEEE_8021X_PASSWORD=\"[removed:value]\"\nKEY1=[removed:value]",
    ),
    (
        "rootpw --iscrypted $6$S3cretO$S3cretP\nuser --name=a --groups=wheel --password=$6$S3cretQ$S3cretR --iscrypted\nsshpw --username=root S3cretS --plaintext\nautopart --encrypted --passphrase=S3cretT\nurl --url=https://u:S3cretU@h/\nbootloader --iscrypted --password=grub.pbkdf2.sha512.10000.S3cretVAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.BB\nrealm join --one-time-password=S3cretW d\nsshkey --username=root \"ssh-rsa AAAAS3cretX me\"\nrhsm --organization=\"1\" --activation-key=\"S3cretY\"",
        "rootpw --iscrypted [removed:value]\nuser --name=a --groups=wheel --password=[removed:value] --iscrypted\nsshpw [removed:value]\nautopart --encrypted --passphrase=[removed:value]\nurl --url=https://[removed:login]@h/\nbootloader --iscrypted --password=[removed:value]\nrealm join --one-time-password=[removed:value] d\nsshkey [removed:value] \"ssh-rsa [removed:ssh-key]\"\nrhsm --organization=\"1\" --activation-key=\"[removed:value]\"",
    ),
    (
        "Nov 25 10:00:00 h sudo[1]:     root : TTY=pts/0 ; PWD=/root ; USER=root ; COMMAND=/usr/bin/mysql --password=S3cretZ\nNov 25 h ansible-command[2]: Invoked with _raw_params=curl -u me:S3creta https://h warn=True\nNov 25 h ansible-user[3]: Invoked with name=a password=NOT_LOGGING_PARAMETER\nNov 25 h python3[1]: ansible-uri Invoked with url=https://h headers={'Authorization': 'Bearer S3cretb', 'X-Auth-Token': 'S3cretc'} body={'password': 'S3cretd'} url_password=S3crete",
        "Nov 25 10:00:00 h sudo[1]:     root : TTY=pts/0 ; PWD=[removed:value] ; USER=root ; COMMAND=/usr/bin/mysql --password=[removed:value]\nNov 25 h ansible-command[2]: Invoked with _raw_params=curl -u [removed:token] https://h warn=True\nNov 25 h ansible-user[3]: Invoked with name=a password=[removed:value]\nNov 25 h python3[1]: ansible-uri Invoked with url=https://h headers={'Authorization': '[removed:value]', 'X-Auth-Token': '[removed:value]'} body={'password': '[removed:value]'} url_password=[removed:value]",
    ),
    (
        "node.session.auth.username = u\nnode.session.auth.password = S3cretf\nnode.session.auth.password_in = S3cretg\ndiscovery.sendtargets.auth.password = S3creth",
        "node.session.auth.username = u\nnode.session.auth.password = [removed:value]\nnode.session.auth.password_in = [removed:value]\ndiscovery.sendtargets.auth.password = [removed:value]",
    ),
    (
        "defaults {\n user_friendly_names yes\n}\nprotocol \"iscsi\" {\n auth_password \"S3creti\"\n}",
        "defaults {\n user_friendly_names yes\n}\nprotocol \"iscsi\" {\n auth_password \"[removed:value]\"\n}",
    ),
    (
        "guestinfo.ovfEnv = \"S3cretj\"\nguestinfo.userdata = \"S3cretk\"\n<Property oe:key=\"admin_password\" oe:value=\"S3cretl\"/>\n<ns1:password>S3cretm</ns1:password>",
        "guestinfo.ovfEnv = \"[removed:value]\"\nguestinfo.userdata = \"[removed:value]\"\n<Property oe:key=\"[removed:value]\" oe:value=\"[removed:value]\"/>\n<ns1:password>[removed:value]</ns1:password>",
    ),
    (
        "#cloud-config\npassword: S3cretn\nchpasswd:\n  expire: false\n  users:\n  - {name: a, password: S3creto}\n  list: |\n    root:S3cretp\nusers:\n- name: a\n  hashed_passwd: $6$S3cretq$S3cretr\n  plain_text_passwd: \"S3crets\"\n  ssh_authorized_keys:\n  - ssh-ed25519 AAAAS3crett me@x\nwrite_files:\n- path: /etc/x\n  content: |\n    TOKEN=S3cretu\nssh_keys:\n  rsa_private: |\n    -----BEGIN RSA PRIVATE KEY-----\n    S3cretv\n    -----END RSA PRIVATE KEY-----\n",
        "#cloud-config\npassword: [removed:value]\nchpasswd:\n  [removed:value]\nusers:\n- name: a\n  hashed_passwd: [removed:value]\n  plain_text_passwd: \"[removed:value]\"\n  ssh_authorized_keys:\n  [removed:value]\nwrite_files:\n- path: /etc/x\n  content: |\n    TOKEN=[removed:value]\nssh_keys:\n  [removed:value]\n",
    ),
    (
        "BOOT_IMAGE=/vmlinuz root=x rd.luks.key=/S3cretw.key:UUID=1 rd.luks.uuid=luks-1 rd.iscsi.password=S3cretx netroot=iscsi:u:S3crety:u2:S3cretz@10.0.0.1::3260::iqn.x inst.vncpassword=S3cret1 inst.sshpw=S3cret2 ip=dhcp",
        "BOOT_IMAGE=/vmlinuz root=x rd.luks.key=[removed:value] rd.luks.uuid=luks-1 rd.iscsi.password=[removed:value] netroot=[removed:login]@10.0.0.1::3260::iqn.x inst.vncpassword=[removed:value] inst.sshpw=[removed:value] ip=dhcp",
    ),
    ("netroot=iscsi:u:S3cret3@10.0.0.1::3260::iqn.x", "netroot=[removed:login]@10.0.0.1::3260::iqn.x"),
    ("machine h login u password S3cret4\n", "machine h login u password [removed:value]\n"),
    ("machine h\nlogin u\npassword S3creta5\n", "machine h\nlogin u\npassword [removed:value]\n"),
    (
        "[default]\naws_access_key_id = AKIAS3CRET4567890123\naws_secret_access_key = S3cret6\naws_session_token=S3cret7",
        "[default]\naws_access_key_id = [removed:value]\naws_secret_access_key = [removed:value]\naws_session_token=[removed:value]",
    ),
    ("auth_pass S3cretCC", "auth_pass [removed:value]"),
    (
        "bindpw S3cretDD\nBINDPW = S3cretEE\nldap_default_authtok = S3cretFF\nolcRootPW: {SSHA}S3cretGG",
        "bindpw [removed:value]\nBINDPW = [removed:value]\nldap_default_authtok = [removed:value]\nolcRootPW: [removed:value]",
    ),
    ("export RESTIC_PASSWORD=S3cretHH; export AWS_X=1", "export RESTIC_PASSWORD=[removed:value] export AWS_X=1"),
    ("ExecStart=/usr/bin/x --api-key S3cretII --port 5", "ExecStart=/usr/bin/x --api-key [removed:value] --port 5"),
    (r#"Environment="DB_PASS=S3cretJJ" "A=b""#, r#"Environment="DB_PASS=[removed:value]" "A=b""#),
    ("//registry/:_authToken=S3cretLL", "//registry/:_authToken=[removed:value]"),
    (r#"{"auths":{"r":{"auth":"S3cretMM"}}}"#, r#"{"auths":{"r":{"auth":"[removed:value]"}}}"#),
    ("net.ipv4.tcp_fastopen_key = S3cretNN", "net.ipv4.tcp_fastopen_key = [removed:value]"),
    ("proxy_password=S3cretPP", "proxy_password=[removed:value]"),
    ("proxy=http://u:S3cretQQ@p:3128/", "proxy=http://[removed:login]@p:3128/"),
    ("vault: hvs.S3cretRRAAAAAAAAAAAAAAAAAA", "vault: [removed:token]"),
    (r#"luks passphrase "S3cretSS""#, r#"luks passphrase "[removed:value]""#),
    ("openssl -passin pass:S3cretWW", "openssl -passin pass:[removed:value]"),
    ("X-Auth-Token: S3cretXX", "X-Auth-Token: [removed:value]"),
    (
        "[Peer]\nPresharedKey = S3cretYY\nAllowedIPs = 0.0.0.0/0",
        "[Peer]\nPresharedKey = [removed:value]\nAllowedIPs = 0.0.0.0/0",
    ),
    (
        "key_data = -----BEGIN RSA PRIVATE KEY-----\nS3cretab\n-----END RSA PRIVATE KEY-----\nok",
        "key_data = [removed:pem]\nok",
    ),
    ("password hash {SSHA}S3cretac", "password hash [removed:hash]"),
    ("u:{SSHA}S3cretad", "u:[removed:hash]"),
    ("User password is: S3cretae", "User password is: [removed:value]"),
    ("password for root: S3cretaf1", "password for root: [removed:value]"),
    ("vmtoolsd: guestinfo.password S3cretag", "vmtoolsd: guestinfo.password [removed:value]"),
    ("--env\nTOKEN=S3cretah", "--env\nTOKEN=[removed:value]"),
    (
        "{\"name\": \"token\",\n \"type\": \"x\",\n \"value\": \"S3cretai\"}",
        "{\"name\": \"token\",\n \"type\": \"x\",\n \"value\": \"[removed:value]\"}",
    ),
    ("enable secret 5 $1$S3cretak$S3cretal", "enable secret 5 [removed:hash]"),
];

/// What support needs to see.
const STAY: &[&str] = &[
    "ID_SERIAL 6000c2999176dd776e0123456789abcd 2:0:3:0",
    "naa.6000c29f8f2a7a1c5d3e naa.600508b1001c4d2f",
    "root af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    r#""root": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262","#,
    "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "kernel.keys.maxkeys = 200",
    "kernel.keys.root_maxbytes = 25000000",
    "no key here, the key of it",
    "press any key to continue",
    "monkey=1",
    "token=",
    "keep_points = 48 # token",
    "mounted at /srv, root@host 12:30:05",
    "2026-11-25T20:45:51+0000 host failback[12]: done",
    "no secret here: it compasses, bypass=1 authors=2",
    "Failed password for invalid user x from 10.0.0.1 port 22 ssh2",
    "pam_unix(sshd:auth): authentication failure; logname= uid=0 tty=ssh",
    "Key type asymmetric registered",
    "getty@tty1.service: Deactivated successfully.",
    "2: eth0@if3: <UP> mtu 1500",
    "https://host:9443/a?x=1",
    "https://[fe80::1]:9443/",
    "nas:/vol@snap /mnt nfs",
    "/dev/disk/by-id/dm-uuid-LVM-pQ3fJ0kLmN2oP4qR6sT8uV0wX2yZ4aB6cD8eF0gH2iJ4kL6mN8oP0qR2sT4uV6wX",
    "dm-uuid-CRYPT-LUKS2-0123456789abcdef0123456789abcdef-root",
    "key_mgmt=WPA-PSK",
    "UUID=6f0c6f2e-8a6e-4a57-bb4f-5e5d6f7a8b9c / xfs defaults 0 0",
    "pci 0000:00:01.0: BAR 0 [mem 0xfd000000-0xfdffffff 64bit]",
    "ACPI: RSDP 0x00000000000F6A00 000024 (v02 PTLTD )",
    "IP 10.0.0.2/24",
    r#""signature": "base.sig","#,
    "signature = /srv/a.sig",
    "scsi-36000c2999176dd776e0123456789abcd -> ../../sda",
    "it is the password of root, and no token expired",
    r#"serial="6000c29" wwid="naa.6000c29""#,
    "a $1 and $HOME",
    "-- 5 -- a",
    "sd 2:0:3:0: [sdb] Attached SCSI disk",
    "rootfs / rootfs rw 0 0",
    "set -e; IFS=: read -r a b",
    "session opened for user root(uid=0) by (uid=0)",
    "app[1]: 2 SHA1 sums differ",
    "--password-stdin --yes",
    "[--token, --yes]",
    "- --token\n- --yes",
    "a:\n  - --token\n- name: x",
    "x --token\n- name: x",
    "ä\" --token\n- x",
    "rootpw --lock",
    r#"user=a password="" x=1"#,
    r#""token=", "b": 1"#,
    "sshd[1]: error: key_load_public: invalid",
];

/// What the rules look at.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "\\",
    "\n",
    "=",
    ":",
    " ",
    "@",
    "://",
    "$6$a$b",
    "-----BEGIN A-----",
    "-----END A-----",
    "[removed:value]",
    "[",
    "]",
    "{",
    "}",
    ",",
    "<",
    ">",
    "&",
    "key",
    "password",
    "--token",
    "AAAA",
    "rootpw ",
    "value=",
    "ä",
    "\"\"\"",
    "'''",
    "|",
    "%3D",
    "Bearer ",
    "#",
    "\t",
    "\0",
    "x=",
    "/",
    "\\n",
    "-u ",
    "a b",
    "c1",
];

/// What makes lines that would take long if each name in them were read to their end.
const LONG: &[&str] = &[
    "\"token\":1,",
    "{\"id\":1,\"key\":2}",
    "'password=a",
    "'password=a'",
    "password for",
    "password\t",
    "a@",
    "ssh-a@",
    "a,",
    "(a:",
    "a:a/",
    "rootpw --:",
    "x:password ",
    "a:password>",
    "x -----END A-----",
    "password='a' b\\\"c\\\\\\\"d ",
    "password=[a\n",
    "password={\"a\n",
    "password='\nkey=\"\n",
    "- --token, \n",
];

fn clean(text: &str) -> String {
    without_secrets(text).0
}

#[test]
fn what_goes() {
    for (text, wanted) in GO.iter().chain(REAL) {
        assert_eq!(clean(text), *wanted, "of {text}");
        assert_eq!(without_secrets(wanted), ((*wanted).to_owned(), 0), "a second time");
    }
    assert!(REAL.iter().all(|(text, _)| text.to_ascii_lowercase().contains("s3cret")));
    assert!(REAL.iter().all(|(_, wanted)| !wanted.to_ascii_lowercase().contains("s3cret")));
}

#[test]
fn what_stays() {
    for text in STAY {
        assert_eq!(without_secrets(text), ((*text).to_owned(), 0));
    }
}

#[test]
fn what_stays_stays_between_secrets() {
    for text in STAY {
        let (all, wanted) = (
            format!("token = \"a\"\n{text}\npsk=b c\n"),
            format!("token = \"[removed:value]\"\n{text}\npsk=[removed:value]\n"),
        );
        assert_eq!(clean(&all), wanted);
    }
}

#[test]
fn they_are_counted() {
    assert_eq!(without_secrets("password=a token=b\nhttps://c@d\n").1, 3);
    assert_eq!(without_secrets(""), (String::new(), 0));
}

#[test]
fn work_grows_with_the_length_only() {
    // Enough for what grows with the square of it to be thousands of times as much.
    const LENGTH: usize = 1 << 18;
    let deep: String = (8..300).map(|depth| "\\".repeat(depth) + "\"").collect();
    let login = "a:".repeat(250) + "token=x@h ";
    let pieces = LONG.iter().copied().chain([deep.as_str(), &login]);
    let mut texts: Vec<_> = pieces.map(|piece| piece.repeat(LENGTH / piece.len())).collect();
    texts.extend(LONG[..5].iter().map(|piece| piece.repeat(4 * LENGTH / piece.len())));
    texts.push(format!("password=a{}x", " ".repeat(LENGTH)));
    texts.push("key:>1 ".repeat(LENGTH / 14) + &" ".repeat(LENGTH / 2));
    texts.push(format!("{}\n{}", "A".repeat(LENGTH / 2), "x -----END A-----".repeat(LENGTH / 34)));
    texts.push(format!("password=[{}{deep}", "[\"".repeat(LENGTH / 2)));
    for text in &texts {
        let (started, cleaned) = (std::time::Instant::now(), all(text));
        let begin: String = text.chars().take(40).collect();
        assert!(cleaned.looked <= 64 * text.len(), "{} times {} of {begin}", cleaned.looked / text.len(), text.len());
        assert!(!cleaned.text.contains(Kind::Rest.marker()), "{begin}");
        assert!(started.elapsed().as_secs() < 60, "{:?} for {begin}", started.elapsed());
    }
}

#[test]
fn what_takes_too_long_goes() {
    let text = "password=abc and token=def, password=ghi\n";
    let cleaned = once(text, 100);
    assert!(cleaned.text.starts_with("password=[removed:value]") && !cleaned.text.contains("ghi"), "{}", cleaned.text);
    assert!(cleaned.text.ends_with("\n[removed:rest]") && cleaned.looked < 200, "{}", cleaned.text);
    assert_eq!(without_secrets(&cleaned.text), (cleaned.text, 0));
    assert!(!clean(text).contains("[removed:rest]"));
}

proptest! {
    #[test]
    fn nothing_makes_it_fail(text in "[ -~äß=:\"'@/$\n\\\\]{0,200}") {
        let (once, _) = without_secrets(&text);
        prop_assert_eq!(without_secrets(&once), (once.clone(), 0));
    }

    #[test]
    fn pieces_in_any_order(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)) {
        let (once, _) = without_secrets(&pieces.concat());
        prop_assert_eq!(without_secrets(&once), (once.clone(), 0));
    }

    #[test]
    fn a_secret_never_stays(
        name in "(root|my_|x\\.|--|)(password|token|api_key|sshkey|PresharedKey)",
        value in "[A-Za-z0-9+/]{12,40}",
        quote in prop::sample::select(vec!["", "\"", "'", "\\\"", "\"\"\"", "'''"]),
        joint in prop::sample::select(vec!["=", ": ", " = ", ":", " := ", "=>", "\": "]),
        before in prop::sample::select(vec!["", "a b ", "- ", "{\"m\": \"", "{", "it's ", "x,", "?a=b&", "# "]),
    ) {
        let text = format!("{before}{name}{joint}{quote}{value}{quote} c\n");
        prop_assert!(!clean(&text).contains(&value), "{} of {}", clean(&text), text);
    }
}
