// Enough of mongosh and of three members of MongoDB to run deploy/k8s/base/mongo/setup.js:
//   node mongosh.js setup.js state.json LIMIT LANDED
// Reads and writes what the members hold in state.json. The LIMITth write loses its connection (0: none does),
// after it has landed or before.
const fs = require('fs');
const vm = require('vm');
const [, , script, stateFile, limit, landed] = process.argv;
const state = JSON.parse(fs.readFileSync(stateFile));
let writes = 0;

class ServerError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function write(change) {
  writes += 1;
  const cut = writes === Number(limit);
  if (!cut || landed === 'landed') change();
  if (cut) throw new Error('connection closed');
}

function host(name) {
  return name.startsWith('127.0.0.1') ? 'mongo-0.mongo:27017' : name;
}

function belongs(name) {
  return state.config !== null && state.config.members.some((member) => member.host === name) && !state.lost.includes(name);
}

function connect(uri) {
  const [, user, password, hosts, query] = uri.match(/^mongodb:\/\/(?:([^:]+):([^@]+)@)?([^/]+)\/admin\?(.*)$/);
  const direct = query.includes('directConnection=true');
  const up = hosts.split(',').map(host).filter((name) => state.up.includes(name));
  if (up.length === 0) throw new Error('connect ECONNREFUSED');
  if (!direct) {
    const members = up.filter(belongs);
    if (state.config === null || members.length * 2 <= state.config.members.length) throw new Error('Server selection timed out');
  }
  if (user !== undefined) {
    const known = state.users[user];
    if (known === undefined || known.pwd !== decodeURIComponent(password)) throw new ServerError(18, 'Authentication failed.');
  }
  return database(direct ? up[0] : null, user === 'root', hosts.startsWith('127.0.0.1'));
}

function database(self, root, local) {
  const bypass = local && Object.keys(state.users).length === 0; // the localhost exception
  const allow = (permitted) => {
    if (!permitted) throw new ServerError(13, 'Command requires authentication');
  };
  return {
    adminCommand(command) {
      if (command.hello) {
        const member = self === null || belongs(self);
        return { isWritablePrimary: member && (self === null || self === 'mongo-0.mongo:27017'), ...(member ? { setName: 'rs0' } : {}) };
      }
      if (command.replSetInitiate) {
        allow(bypass || root);
        if (state.config !== null && !state.lost.includes(self)) throw new ServerError(23, 'already initialized');
        write(() => { state.config = { version: 1, ...command.replSetInitiate }; state.initiated += 1; });
        return { ok: 1 };
      }
      if (command.replSetGetConfig) {
        allow(root);
        return { config: structuredClone(state.config) };
      }
      allow(root);
      const config = command.replSetReconfig;
      if (config.version !== state.config.version + 1) throw new ServerError(103, 'version');
      if (config.members.length > state.config.members.length + 1) throw new ServerError(103, 'more than one at a time');
      if (new Set(config.members.map((member) => member._id)).size !== config.members.length) throw new ServerError(103, '_id');
      for (const member of config.members) if (!state.up.includes(member.host)) throw new ServerError(74, 'no quorum');
      write(() => { state.config = config; });
      return { ok: 1 };
    },
    createUser({ user, pwd, roles }) {
      allow(root || bypass);
      if (state.users[user]) throw new ServerError(51003, 'already exists');
      write(() => { state.users[user] = { pwd, roles }; });
    },
    updateUser(user, change) {
      allow(root);
      write(() => Object.assign(state.users[user], change));
    },
    getUser(user) {
      allow(root);
      return state.users[user] ? { user } : null;
    },
  };
}

class Quit extends Error {}
let code = 0;
try {
  vm.runInNewContext(fs.readFileSync(script, 'utf8'), {
    require, process, connect, print: console.log,
    quit: (exit) => { code = exit; throw new Quit(); },
  });
} catch (error) {
  if (!(error instanceof Quit)) throw error;
}
fs.writeFileSync(stateFile, JSON.stringify(state));
console.error(writes);
process.exit(code);
