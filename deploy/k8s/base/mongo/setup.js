// Makes the replica set and its users; run by mongosh (--nodb) beside the first member, whose Pod gives it
// MEMBERS (host:port, comma separated, itself first) and SECRETS (a folder of `<user>-password` files).
// Each step first looks what is there, so it may be run at any time and may end anywhere: what fails ends the
// run, and setup.sh runs it again. Users are in `admin` (authSource=admin).
const { readFileSync } = require('fs');

const SET = 'rs0';
const LOCAL = '127.0.0.1:27017'; // only from there may the first user be made
const SERVICES = ['identity', 'catalog', 'dossier', 'payment', 'notify'];
const AUTHENTICATION_FAILED = 18;
const hosts = process.env.MEMBERS.split(',');
const password = (user) => readFileSync(`${process.env.SECRETS}/${user}-password`, 'utf8').trim();
const roles = {
  backup: [{ role: 'backup', db: 'admin' }, { role: 'restore', db: 'admin' }],
};
for (const name of SERVICES) roles[name] = [{ role: 'readWrite', db: `motcua_${name}` }];

function one(host) {
  return connect(`mongodb://${host}/admin?directConnection=true&serverSelectionTimeoutMS=5000`);
}

function whole(user) {
  const login = `${user}:${encodeURIComponent(password(user))}`;
  const options = `replicaSet=${SET}&authSource=admin&serverSelectionTimeoutMS=10000`;
  return connect(`mongodb://${login}@${hosts.join(',')}/admin?${options}`);
}

// A set of this member alone. The others join below, when there is a root. A member that lost its volume must
// not begin a new set: any other that belongs to one takes it back by itself.
function initiate() {
  const local = one(LOCAL);
  if (local.adminCommand({ hello: 1 }).setName) return;
  for (const host of hosts.slice(1)) {
    const other = one(host).adminCommand({ hello: 1 });
    if (other.setName) throw new Error(`waiting until ${host} takes this member back into ${other.setName}`);
  }
  local.adminCommand({ replSetInitiate: { _id: SET, members: [{ _id: 0, host: hosts[0] }] } });
  print(`${SET} initiated`);
}

function opens(user) {
  try {
    whole(user);
    return true;
  } catch (error) {
    if (error.code === AUTHENTICATION_FAILED) return false;
    throw error;
  }
}

function makeRoot() {
  if (opens('root')) return;
  const local = one(LOCAL);
  if (!local.adminCommand({ hello: 1 }).isWritablePrimary) throw new Error('waiting for a primary');
  // Refused when there is a root with another password: change that one back, or the Secret.
  local.createUser({ user: 'root', pwd: password('root'), roles: [{ role: 'root', db: 'admin' }] });
  print('root made');
}

function makeUsers(admin) {
  for (const name of Object.keys(roles)) {
    if (admin.getUser(name) === null) {
      admin.createUser({ user: name, pwd: password(name), roles: roles[name] });
      print(`${name} made`);
    } else if (opens(name)) {
      admin.updateUser(name, { roles: roles[name] });
    } else {
      admin.updateUser(name, { roles: roles[name], pwd: password(name) });
      print(`${name} has a new password`);
    }
  }
}

// One at a time: a configuration must have reached a majority before the next one.
function grow(admin) {
  for (const host of hosts) {
    const config = admin.adminCommand({ replSetGetConfig: 1 }).config;
    if (config.members.some((member) => member.host === host)) continue;
    const _id = Math.max(...config.members.map((member) => member._id)) + 1;
    config.members.push({ _id, host });
    config.version += 1;
    admin.adminCommand({ replSetReconfig: config });
    print(`${host} joins`);
  }
}

try {
  initiate();
  makeRoot();
  const admin = whole('root');
  makeUsers(admin);
  grow(admin);
  print(`${SET} has ${hosts.length} members and ${Object.keys(roles).length + 1} users`);
} catch (error) {
  print(`not yet: ${error.message}`);
  quit(1);
}
