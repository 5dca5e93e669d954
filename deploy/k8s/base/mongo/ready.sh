#!/bin/bash
# Is this member primary or secondary? Asks `hello` as any driver does, without authentication, and looks for
# either answer; mongosh would cost a second of CPU each time. Exit code 0: yes.
exec 3<>"/dev/tcp/127.0.0.1/${1:-27017}" || exit 1
# OP_MSG (mongodb.com/docs/manual/reference/mongodb-wire-protocol): a header (52 bytes in all, request 1,
# response to 0, opcode 2013), flags 0, section 0, and {hello: 1, $db: "admin"} in BSON, of 31 bytes.
printf '\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0' >&3
printf '\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0' >&3
# The answer begins with its length.
length=$(timeout 3 head -c 4 <&3 | od -An -tu4)
timeout 3 head -c $((length - 4)) <&3 | LC_ALL=C grep -qaP '\x08(isWritablePrimary|secondary)\x00\x01'
