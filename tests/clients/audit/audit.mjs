// node audit.mjs URL: runs graphql-http's server audit, prints what is not ok, exits 1 when a MUST fails.
import { auditServer } from 'graphql-http';

const results = await auditServer({ url: process.argv[2], fetchFn: fetch });
const failing = results.filter((result) => result.status !== 'ok');
for (const result of failing) console.log(result.status, result.id, result.name, result.reason);
console.log(`${results.length - failing.length} of ${results.length} ok`);
process.exit(failing.some((result) => result.name.startsWith('MUST')) ? 1 : 0);
