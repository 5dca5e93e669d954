// An identity provider on 127.0.0.1. Its first line of output is its address; it ends when its input does.
//
// POST /control {account, acr, claimsInToken, rotate, away} decides who signs in next and how it behaves.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const now = { account: { sub: 'nobody' }, acr: undefined, claimsInToken: false, away: false };
let handle;

function jwk() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: randomUUID() };
}

function provide(issuer, keys) {
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: [
      {
        client_id: 'motcua',
        client_secret: 'a secret: of/ours+%',
        redirect_uris: ['https://dichvucong.example.vn/dang-nhap'],
      },
    ],
    acrValues: ['urn:level:1', 'urn:level:2'],
    claims: { openid: ['sub', 'acr'], profile: ['name', 'citizen_number'] },
    conformIdTokenClaims: !now.claimsInToken,
    cookies: { keys: [randomUUID()] },
    features: { devInteractions: { enabled: false } },
    findAccount: (_context, id) => ({ accountId: id, claims: () => ({ ...now.account, sub: id }) }),
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    pkce: { required: () => true },
  });
  return { provider, handle: provider.callback() };
}

async function interact(provider, request, response) {
  const { params } = await provider.interactionDetails(request, response);
  const grant = new provider.Grant({ accountId: now.account.sub, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(request, response, {
    login: { accountId: now.account.sub, acr: now.acr, remember: false },
    consent: { grantId: await grant.save() },
  });
}

async function control(request, response) {
  let text = '';
  for await (const piece of request) text += piece;
  const { rotate, ...change } = JSON.parse(text);
  Object.assign(now, change);
  if (rotate || 'claimsInToken' in change) begin(rotate ? [jwk()] : current.keys);
  response.end('{}');
}

let current;
function begin(keys) {
  current = { keys, ...provide(issuer, keys) };
  handle = current.handle;
}

const server = createServer((request, response) => {
  const failed = (error) => response.writeHead(500).end(String(error));
  if (request.url === '/control') control(request, response).catch(failed);
  else if (now.away) response.writeHead(503).end();
  else if (request.url.startsWith('/interaction/')) interact(current.provider, request, response).catch(failed);
  else handle(request, response);
});
let issuer;
server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  begin([jwk()]);
  process.stdout.write(`${issuer}\n`);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
